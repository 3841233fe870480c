"""Collision resolution by hand and on many items."""
import numpy as np
import pytest

from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids.collisions import resolve
from recbole_macrec.semantic_ids.collisions.base import Geometry, rank_in_group
from recbole_macrec.semantic_ids.collisions.reassign import UsedIDs, count_ids


def one_level(z, codebook):
    z = np.array(z, dtype=np.float32)[:, None]
    codebook = np.array(codebook, dtype=np.float32)[:, None]
    codes = np.abs(z - codebook.T).argmin(1)[:, None]
    return codes, Geometry(z, codebook[None])


def test_reassign_one_level_by_hand():
    # codewords 0, 1, 2, 10; items at 1.4, 0.9 and 1.2 all take codeword 1: 0.9 is nearest and keeps it, then 1.2
    # (0.8 to 2, 1.2 to 0) takes 2, then 1.4 takes 0, the nearest that is left
    codes, geometry = one_level([1.4, 0.9, 1.2], [0, 1, 2, 10])
    assert codes[:, 0].tolist() == [1, 1, 1]
    assert resolve("reassign", codes, (4,), geometry).codes[:, 0].tolist() == [0, 1, 2]


def test_reassign_changes_the_level_above_if_the_last_is_full():
    codebooks = np.array([[[0.0], [10], [30]], [[0.0], [1], [2]]], dtype=np.float32)[:, :2]  # ids at 0, 1, 10, 11
    z = np.array([[0.1], [0.2], [0.3]], dtype=np.float32)
    codes = np.zeros((3, 2), dtype=np.int64)
    out = resolve("reassign", codes, (2, 2), Geometry(z, codebooks)).codes
    assert out.tolist() == [[0, 0], [0, 1], [1, 0]]  # the last moves to codeword 10 and the nearest below it


def test_moved_items_never_get_the_id_of_an_item_without_collision():
    codes, geometry = one_level([1.0, 1.1, 2.0], [0, 1, 2, 10])
    assert codes[:, 0].tolist() == [1, 1, 2]
    assert resolve("reassign", codes, (4,), geometry).codes[:, 0].tolist() == [1, 0, 2]


def test_reassign_without_geometry_uses_the_lowest_free_code():
    codes = np.array([[3, 1], [3, 1], [3, 0], [3, 1]])
    assert resolve("reassign", codes, (4, 3)).codes.tolist() == [[3, 1], [3, 2], [3, 0], [0, 0]]


def test_reassign_can_use_every_id():
    codes = np.zeros((27, 3), dtype=np.int64)
    z = np.random.default_rng(0).normal(size=(27, 2)).astype(np.float32)
    codebooks = np.random.default_rng(1).normal(size=(3, 3, 2)).astype(np.float32)
    out = resolve("reassign", codes, (3, 3, 3), Geometry(z, codebooks)).codes
    assert len(np.unique(out, axis=0)) == 27 and out.min() == 0 and out.max() == 2


@pytest.mark.parametrize("sizes", [(3, 2, 4), (2, 3, 2**62)])  # the second has more IDs than 64 bits count
def test_used_ids_equal_a_python_set(sizes):
    rng = np.random.default_rng(0)
    every = [(a, b, c) for a in range(sizes[0]) for b in range(sizes[1]) for c in range(min(sizes[2], 4))]
    order = rng.permutation(len(every)).tolist()
    used = UsedIDs(sizes, np.array([every[i] for i in order[:9]]))
    known = {every[i] for i in order[:9]}
    for i in order[9:]:
        for level in range(2):
            for prefix in {row[:level] for row in every}:
                below = sum(row[:level] == prefix for row in known)
                assert used.is_full(list(prefix)) == (below == count_ids(sizes[level:]))
                full = [k for k in range(sizes[level])
                        if sum(row[: level + 1] == (*prefix, k) for row in known) == count_ids(sizes[level + 1 :])]
                assert used.full_codes(list(prefix)).tolist() == full
        used.add(list(every[i]))
        known.add(every[i])


def test_more_items_than_ids_is_a_user_error():
    with pytest.raises(UserError, match="codebook_size or codebook_levels"):
        resolve("reassign", np.zeros((5, 2), dtype=np.int64), (2, 2))


@pytest.mark.parametrize("with_geometry", [True, False])
def test_reassign_of_many_items_is_unique_and_moves_only_colliding_items(with_geometry):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 6, (800, 3))
    geometry = Geometry(rng.normal(size=(800, 4)), rng.normal(size=(3, 16, 4))) if with_geometry else None
    before = codes.copy()
    out = resolve("reassign", codes, (16, 16, 16), geometry).codes
    assert (codes == before).all()  # the input stays
    assert len(np.unique(out, axis=0)) == 800 and out.max() < 16
    kept = (out == codes).all(1)
    assert kept.sum() == len(np.unique(codes, axis=0))


def test_extra_token_ranks_in_item_order():
    codes = np.array([[5, 7], [1, 1], [5, 7], [5, 7], [1, 1], [2, 0]])
    out = resolve("extra_token", codes, (8, 8))
    assert out.codes.tolist() == [[5, 7, 0], [1, 1, 0], [5, 7, 1], [5, 7, 2], [1, 1, 1], [2, 0, 0]]
    assert out.sizes == (8, 8, 3)


@pytest.mark.parametrize("codes", [[[0, 2]], [[-1, 0]], [[0]]])
def test_codes_beyond_the_sizes_are_rejected(codes):
    with pytest.raises(AssertionError, match=r"below the sizes \[2, 2\]"):
        resolve("keep", np.array(codes), (2, 2))


def test_keep_does_not_change_codes():
    codes = np.array([[5, 7], [5, 7]])
    out = resolve("keep", codes, (8, 8))
    assert out.codes.tolist() == codes.tolist() and out.sizes == (8, 8)


def test_rank_in_group_orders_by_key_then_item():
    codes = np.array([[1], [0], [1], [1]])
    assert rank_in_group(codes, np.array([2.0, 9.0, 1.0, 1.0])).tolist() == [2, 0, 0, 1]


def test_popularity_ranks_by_count_then_item_order():
    codes = np.array([[5, 7], [1, 1], [5, 7], [5, 7], [1, 1], [2, 0]])
    out = resolve("popularity", codes, (8, 8), counts=np.array([3, 0, 9, 3, 4, 1]))
    assert out.codes[:, 2].tolist() == [1, 1, 0, 2, 0, 0] and out.sizes == (8, 8, 3)
    assert (out.codes[:, :2] == codes).all()
    with pytest.raises(UserError, match="popularity"):
        resolve("popularity", codes, (8, 8))


def test_random_last_token_depends_on_the_seed_only():
    codes = np.zeros((40, 2), dtype=np.int64)
    one, again, other = (resolve("random", codes, (2, 2), seed=seed).codes[:, 2].tolist() for seed in (1, 1, 2))
    assert one == again != other and sorted(one) == list(range(40)) != one


def test_sinkhorn_spreads_the_items_of_a_prefix_over_its_free_codewords():
    # below prefix 0 codeword 3 is used by an item without collision; the three others share the rest
    codebooks = np.array([[[0.0], [100]], [[0], [1]]], dtype=np.float32)
    codebooks = np.pad(codebooks, ((0, 0), (0, 2), (0, 0)))
    codebooks[1, :, 0] = [0, 1, 2, 10]
    z = np.array([[1.2], [0.9], [1.1], [10.0]], dtype=np.float32)
    codes = np.array([[0, 1], [0, 1], [0, 1], [0, 3]])
    out = resolve("sinkhorn", codes, (4, 4), Geometry(z, codebooks)).codes
    assert out.tolist() == [[0, 2], [0, 0], [0, 1], [0, 3]]
    with pytest.raises(UserError, match="sinkhorn"):
        resolve("sinkhorn", codes, (4, 4))


def test_sinkhorn_keeps_colliding_items_near_their_codewords():
    """Two items share one of 64 codewords: one keeps it, the other gets one of the nearest."""
    rng = np.random.default_rng(0)
    codebooks = rng.normal(size=(2, 64, 8))
    codes = np.repeat(np.column_stack([np.arange(20), rng.integers(0, 64, 20)]), 2, axis=0)  # [40, 2]
    z = codebooks[0][codes[:, 0]] + codebooks[1][codes[:, 1]] + 0.05 * rng.normal(size=(40, 8))
    out = resolve("sinkhorn", codes, (64, 64), Geometry(z, codebooks)).codes
    distances = np.square((z - codebooks[0][codes[:, 0]])[:, None] - codebooks[1]).sum(2)  # [40, 64]
    place = (distances < distances[np.arange(40), out[:, 1], None]).sum(1).reshape(20, 2)
    assert (place.min(1) == 0).all() and (place.max(1) <= 2).all()


def test_sinkhorn_assigns_free_codewords_to_the_nearest_items():
    """Three items share an ID and a prefix with two codewords. The farthest item is moved to another prefix."""
    codebooks = np.array([[[0.0], [10]], [[0.0], [1]]])
    z = np.array([[0.3], [0.1], [0.2]])
    out = resolve("sinkhorn", np.zeros((3, 2), dtype=np.int64), (2, 2), Geometry(z, codebooks)).codes
    assert out.tolist() == [[1, 0], [0, 0], [0, 1]]


def test_sinkhorn_of_many_items_is_unique_where_a_prefix_overflows():
    rng = np.random.default_rng(0)
    codes = np.column_stack([rng.integers(0, 3, (60, 1)), rng.integers(0, 2, (60, 1))])
    geometry = Geometry(rng.normal(size=(60, 4)), rng.normal(size=(2, 8, 4)))
    out = resolve("sinkhorn", codes, (8, 8), geometry).codes
    assert len(np.unique(out, axis=0)) == 60 and out.max() < 8
