"""Dense matrices of the planted dataset's graph, as slow references for the models on edges."""
import torch


def adjacency(model, self_loops: bool = False) -> torch.Tensor:
    """Float64 [n, n], row t and column s; nodes are the users, then the items."""
    users, items = model.interactions.shape
    matrix = torch.zeros(users + items, users + items, dtype=torch.float64)
    matrix[:users, users:] = torch.from_numpy(model.interactions.toarray())
    matrix = matrix + matrix.T
    return matrix + torch.eye(len(matrix), dtype=torch.float64) if self_loops else matrix


def row_mean(matrix: torch.Tensor) -> torch.Tensor:
    return matrix / matrix.sum(1, keepdim=True).clamp(min=1)


def symmetric(matrix: torch.Tensor) -> torch.Tensor:
    scale = matrix.sum(1).clamp(min=1).rsqrt()
    return scale[:, None] * matrix * scale


def masked_softmax(logits: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Softmax over the columns with an edge; zeros for a row without edges."""
    return logits.masked_fill(matrix == 0, -torch.inf).softmax(1).nan_to_num(0)


def assert_represents(model, users: torch.Tensor, items: torch.Tensor) -> None:
    """Compare with the model's representations in evaluation; padding has none."""
    found = model.double().eval().final_representations()
    torch.testing.assert_close(found[0][1:], users[1:])
    torch.testing.assert_close(found[1][1:], items[1:])
