"""GAT: node vectors as attention-weighted sums over the neighbours.

Shapes: U users, N items, n = U + N nodes (users first), E edges with self-loops, d embedding size, K heads.
"""
from functools import reduce
from operator import add

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_macrec.baselines.graph import Edges, user_item_edges
from recbole_macrec.baselines.pairwise import PairwiseRecommender, half_squared_norm, linear, xavier_table
from recbole_macrec.config.schema.general import GATOptions
from recbole_macrec.utils.lookup import rows_of

ATTENTION_SLOPE = 0.2  # negative slope of LeakyReLU on attention logits


class AttentionLayer(nn.Module):
    """One layer of GAT. Head k has z = W_k h and, over the neighbours w of v and v itself,

        e_vw = LeakyReLU(a_k . z_v + b_k . z_w),   alpha_v = softmax(e_v),   h'_v = sum_w alpha_vw z_w.

    Args:
        inputs: width of h.
        outputs: width of a head.
        heads: K.
        average: return the mean of the heads, not their concatenation.
        dropout: dropout probability of the input and of the attention weights.
    """

    def __init__(self, inputs: int, outputs: int, heads: int, average: bool, dropout: float):
        super().__init__()
        self.heads, self.average, self.dropout = heads, average, dropout
        self.values = nn.ModuleList(linear(inputs, outputs, bias=False) for _ in range(heads))
        self.of_target, self.of_source = xavier_table(heads, outputs), xavier_table(heads, outputs)  # a_k and b_k

    def attention(self, head: int, z: Tensor, edges: Edges) -> Tensor:
        """Attention weights alpha [E] of a head."""
        at_target, at_source = z @ self.of_target[head], z @ self.of_source[head]  # [n]
        return edges.softmax(F.leaky_relu(rows_of(at_target, edges.target) + rows_of(at_source, edges.source), ATTENTION_SLOPE))

    def forward(self, h: Tensor, edges: Edges) -> Tensor:
        h = F.dropout(h, self.dropout, self.training)
        outputs = []
        for head, values in enumerate(self.values):
            z = values(h)
            alpha = F.dropout(self.attention(head, z, edges), self.dropout, self.training)
            outputs.append(edges.weighted_sum(alpha, z))
        return reduce(add, outputs) / self.heads if self.average else torch.cat(outputs, dim=1)


class GAT(PairwiseRecommender):
    """Velickovic et al., "Graph Attention Networks", ICLR 2018, arXiv 1710.10903.

    The nodes are users and items with trained input vectors, the edges training interactions and self-loops. Hidden layers
    concatenate their heads, the last layer averages heads of the full width; between layers is an ELU.

    The penalty is half the squared norm of the input vectors of a batch's users and items, divided by the batch size.
    """

    options = GATOptions

    @classmethod
    def reads_features(cls, config) -> bool:
        return False

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.edges = user_item_edges(self.interactions, self_loops=True)
        self.users, self.items = xavier_table(self.n_users, self.width), xavier_table(self.n_items, self.width)
        heads, last = config["n_heads"], config["n_layers"] - 1
        self.layers = nn.ModuleList(
            AttentionLayer(self.width, self.width if layer == last else self.width // heads, heads, layer == last,
                           config["dropout_prob"])
            for layer in range(config["n_layers"])
        )

    def representations(self) -> tuple[Tensor, Tensor]:
        h = torch.cat([self.users, self.items])  # [n, d]
        for number, layer in enumerate(self.layers):
            h = layer(F.elu(h) if number else h, self.edges)
        return h[: self.n_users], h[self.n_users :]

    def penalty(self, user: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        return half_squared_norm(rows_of(self.users, user), rows_of(self.items, positive), rows_of(self.items, negative))
