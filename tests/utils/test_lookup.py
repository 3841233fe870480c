"""Scores of looked-up rows, beside the product of the rows themselves."""
import pytest
import torch

from recbole_macrec.utils.lookup import pair_scores


def looked_up(queries, table, index):
    return (table[index] @ queries.unsqueeze(2)).squeeze(2)


@pytest.mark.parametrize("shape", [(6, 5, 3), (1, 1, 4), (7, 2, 1)])
def test_pair_scores_equal_products_of_the_rows(shape):
    queries_and_columns, rows, width = shape
    torch.manual_seed(0)
    queries, table = torch.randn(queries_and_columns, width), torch.randn(rows, width)
    index = torch.randint(0, rows, (queries_and_columns, 4))
    weights = torch.randn(index.shape)
    results = []
    for function in (looked_up, pair_scores):
        inputs = queries.clone().requires_grad_(), table.clone().requires_grad_()
        scores = function(*inputs, index)
        results.append((scores.detach(), *torch.autograd.grad((scores * weights).sum(), inputs)))
    torch.testing.assert_close(results[1], results[0])


def test_first_and_second_derivatives_of_pair_scores():
    """Also with rows that occur several times or never."""
    torch.manual_seed(0)
    inputs = [torch.randn(size, 3, dtype=torch.float64, requires_grad=True) for size in (4, 6)]
    index = torch.tensor([[0, 0, 5], [1, 5, 0], [2, 2, 2], [5, 1, 0]])
    assert torch.autograd.gradcheck(lambda queries, table: pair_scores(queries, table, index), inputs)
    assert torch.autograd.gradgradcheck(lambda queries, table: pair_scores(queries, table, index), inputs)
