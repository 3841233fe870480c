"""The table of semantic IDs of a modality, by hand."""
import numpy as np
import torch

from recbole_macrec.generation.id_table import IDTable

CODES = np.array([[1, 0], [0, 2], [1, 1], [0, 2]])  # items 1 to 4; the nodes of level 1 are 02, 10, 11
RAW = np.array([[1, 0], [0, 2], [1, 0], [0, 2]])


def test_items_by_number():
    table = IDTable(CODES, RAW)
    assert table.codes.tolist() == [[0, 0], *CODES.tolist()] and table.levels == 2
    assert table.raw_id[0] == -1 and table.raw_id[1] == table.raw_id[3] != table.raw_id[2] == table.raw_id[4]
    assert table.prior is None and table.trained is table.trie
    assert table.nodes.tolist() == [[0, 0], [1, 1], [0, 0], [1, 2], [0, 0]]


def test_new_items_are_not_in_the_trie_of_trained_items():
    table = IDTable(CODES, RAW, n_new_items=2)
    assert sorted(table.trie.items.tolist()) == [1, 2, 3, 4] and sorted(table.trained.items.tolist()) == [1, 2]
    assert table.nodes.tolist() == [[0, 0], [1, 1], [0, 0]]
    assert table.prior.isnan().tolist() == [[True, True]] * 3 + [[True, False], [True, True]]
    # one trained item starts with 1
    torch.testing.assert_close(table.prior[3, 1], torch.tensor(-np.log(1.0), dtype=torch.float32))


def test_a_trie_of_some_items():
    trie = IDTable(CODES, RAW).trie_of(np.array([1, 4]))
    assert trie.items.tolist() == [4, 1] and trie.code(0).tolist() == [0, 1]


def test_shares_of_items_with_the_same_id():
    """Items 2 and 4 share an ID."""
    table = IDTable(CODES, RAW, counts=np.array([9, 4, 9, 0]))
    expected = torch.tensor([1, 1, 5 / 6, 1, 1 / 6]).log()
    torch.testing.assert_close(table.log_shares, expected)
    torch.testing.assert_close(table.trie.log_shares, expected[table.trie.items.long()])
    torch.testing.assert_close(table.trie_of(np.array([1, 4])).log_shares, expected[[4, 1]])
    assert IDTable(CODES, RAW).log_shares is None
    assert IDTable(CODES[:3], RAW[:3], counts=np.array([9, 4, 9])).log_shares is None  # all IDs differ


def test_checkpoints_do_not_contain_the_table():
    assert not IDTable(CODES, RAW, n_new_items=1).state_dict()
