"""``quantizer: cid``: IDs from the graph of items with common users."""
import numpy as np
from scipy.sparse import csr_matrix

from recbole_macrec.semantic_ids.quantizers.cid import cluster_paths, common_users, rectangular_codes


def two_communities(users: int = 60, items: int = 20, seed: int = 0) -> csr_matrix:
    """Users of each half interact with items of that half, except for one user of the first half who interacts with both."""
    rng, rows = np.random.default_rng(seed), np.zeros((users, items))
    for user in range(users):
        half = items // 2 * (user % 2)
        rows[user, half + rng.permutation(items // 2)[:4]] = 1
    rows[0, [0, items - 1]] = 1
    return csr_matrix(rows)


def test_edges_count_common_users():
    interactions = csr_matrix(np.array([[1, 3, 0], [2, 1, 1], [0, 1, 1]]))
    assert common_users(interactions).toarray().tolist() == [[0, 2, 1], [2, 0, 2], [1, 2, 0]]


def test_two_communities_get_different_first_codes():
    paths = cluster_paths(common_users(two_communities()), clusters=2, leaf_size=10, seed=0)
    first = [path[0] for path in paths]
    assert len(set(first[:10])) == len(set(first[10:])) == 1 and first[0] != first[10]


def test_ids_are_unique_and_clusters_have_at_most_the_leaf_size():
    paths = cluster_paths(common_users(two_communities(items=40)), clusters=3, leaf_size=6, seed=0)
    codes = rectangular_codes(paths)
    assert len(np.unique(codes, axis=0)) == 40
    assert max(path[-1] for path in paths) < 6
    assert codes.shape == (40, max(map(len, paths)))


def test_same_seed_gives_same_ids():
    weights = common_users(two_communities(items=40))
    assert cluster_paths(weights, 3, 6, seed=5) == cluster_paths(weights, 3, 6, seed=5)


def test_short_ids_end_with_the_end_code():
    assert rectangular_codes([(0, 2), (1, 0, 1)]).tolist() == [[1, 3, 0], [2, 1, 2]]
    assert rectangular_codes([(0, 2), (1, 0)]).tolist() == [[0, 2], [1, 0]]


def test_items_without_users_have_a_cluster_of_their_own():
    interactions = np.hstack([two_communities().toarray(), np.zeros((60, 3))])
    paths = cluster_paths(common_users(csr_matrix(interactions)), clusters=2, leaf_size=10, seed=0)
    assert len({path[0] for path in paths[20:]}) == 1 and paths[20][0] not in {path[0] for path in paths[:20]}
