"""Encoder cooccurrence: a case computed by hand, and the similarity of items with common users."""
import numpy as np
import pytest

from recbole_macrec.data.encoders import RawItem
from recbole_macrec.data.encoders.cooccurrence import Cooccurrence, interactions, positive_information
from recbole_macrec.errors import UserError


def items_of(matrix) -> list[RawItem]:
    """Items of a matrix [users, items]."""
    return [RawItem(f"i{i}", users=users.nonzero()[0]) for i, users in enumerate(np.asarray(matrix).T)]


def test_mutual_information_by_hand():
    # users take {0, 1}, {0, 1}, {1, 2}: pairs 01 twice, 12 once; sums over partners 2, 3, 1, over all 6
    items = items_of([[1, 1, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0]])
    items[0] = items[0]._replace(users=np.array([1, 0, 1]))  # a repeat counts once
    information = positive_information(interactions(items)).toarray()
    assert information[0, 1] == pytest.approx(np.log(2 * 6 / (2 * 3)))
    assert information[1, 2] == pytest.approx(np.log(1 * 6 / (3 * 1)))
    assert np.count_nonzero(information) == 4 and np.allclose(information, information.T)


def test_items_of_one_group_have_similar_features():
    rng = np.random.default_rng(0)
    matrix = np.zeros((120, 20))
    for user in range(120):  # even users take of the first ten items, odd ones of the others
        matrix[user, rng.choice(10, 4, replace=False) + 10 * (user % 2)] = 1
    matrix[:, 19] = 0
    features = Cooccurrence(4).encode(items_of(matrix))
    assert features.shape == (20, 4) and features.dtype == np.float32 and np.allclose(features[19], 0)
    unit = features[:19] / np.linalg.norm(features[:19], axis=1, keepdims=True)
    alike = unit @ unit.T
    assert alike[:10, :10].min() > alike[:10, 10:].max()
    assert np.array_equal(features, Cooccurrence(4).encode(items_of(matrix)))


def test_items_without_common_users_are_an_error():
    with pytest.raises(UserError, match="cooccurrence"):
        Cooccurrence().encode(items_of(np.eye(5)))
