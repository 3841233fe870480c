"""MISSRec: a user's multi-modal interests by clustering, and a transformer that reads the history beside them.

Shapes: B users, T items of the longest history, N items including the padding, M modalities, F_m width of the features of
modality m, D width, C clusters, S distinct interests of a user.
"""
import hashlib
import math
from collections.abc import Callable
from functools import partial, reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_macrec.baselines.dense import DenseRecommender
from recbole_macrec.config.schema.models import MISSRecOptions
from recbole_macrec.errors import UserError
from recbole_macrec.generation.network.dropout import Attention, Dropout
from recbole_macrec.model.item_features import SequentialFeatureDataset
from recbole_macrec.model.windowed import in_eval_precision
from recbole_macrec.semantic_ids.quantizers.kmeans import kmeans
from recbole_macrec.utils.modules import ModuleDict, add_derived_buffer
from recbole_macrec.utils.sorted_rows import starts_run

SCORED_USERS = 256  # users of a batch scored together; a C library keeps the memory of matrices of this size for the next one
OF_ITEMS = ("items.weight", "centroids", "clusters")  # weights that belong to the items of a dataset


class MISSRec(DenseRecommender):
    """Wang et al., "MISSRec: Pre-training and Transferring Multi-modal Interest-aware Sequence Representation for
    Recommendation", ACM MM 2023, arXiv 2308.11175; trained from scratch, or from the weights of a run on another dataset.

    A linear adaptor per modality gives item vectors x_m [N, D]; the vectors of all modalities are clustered before every epoch.
    The interests of a user are the distinct clusters of the history's items. An encoder reads their centroids as a set, a
    decoder that is not causal reads the history, and its output at the last item, with unit length, is the query q. With n_i
    the product of q and the item's own embedding, and the products with x_m (all of unit length) fused by their softmax over
    modalities,

        f_i = sum_m softmax_m(gamma q . x_m,i) q . x_m,i,        s_i = (n_i + 2 f_i) / 3        (s_i = f_i without ``use_ids``)

    and gamma a trained scalar that starts at 0. The loss is the cross-entropy of s / ``temperature`` over all items, plus
    ``reg_weight`` times the mean of |p|^2 / D, where p is the sum of the encoder's output times the number of interests over
    the largest possible one, M ``MAX_ITEM_LIST_LENGTH``. The official code divides by the largest number of the batch, sums
    this term over the batch, so that it grows with the batch, and has the padding as a class; all three are left out here.

    With ``pre_model_path`` training starts from the adaptors, positions, Transformer and gamma of a run on another dataset, as
    these do not belong to items. With ``freeze_pretrained`` positions and Transformer are not trained. The pre-training is an
    ordinary run, usually with ``use_ids: False``; the official one has losses within the batch instead of this one.
    """

    options = MISSRecOptions
    dataset_class = SequentialFeatureDataset

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.width, self.temperature, self.reg_weight = config["embedding_size"], config["temperature"], config["reg_weight"]
        self.interest_ratio, self.seed = config["interest_ratio"], config["seed"]
        self.modalities = list(dataset.item_features)
        for modality, matrix in dataset.item_features.items():
            add_derived_buffer(self, f"features_{modality}", matrix)  # [N, F_m]
        self.adaptors = ModuleDict({m: nn.Linear(x.shape[1], self.width) for m, x in dataset.item_features.items()})
        self.items = nn.Embedding(self.n_items, self.width, padding_idx=0) if config["use_ids"] else None
        self.positions = nn.Embedding(self.max_seq_length, self.width)
        self.norm, self.dropout = nn.LayerNorm(self.width), Dropout(config["dropout_prob"])
        layer = {"d_model": self.width, "nhead": config["num_heads"], "dim_feedforward": config["d_ff"], "activation": "gelu",
                 "dropout": config["dropout_prob"], "batch_first": True}  # fmt: skip
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(**layer), config["encoder_layers"], nn.LayerNorm(self.width), enable_nested_tensor=False
        )
        self.decoder = nn.TransformerDecoder(
            nn.TransformerDecoderLayer(**layer), config["decoder_layers"], nn.LayerNorm(self.width)
        )
        for part in [*self.encoder.layers, *self.decoder.layers]:
            for name, module in part.named_children():
                if isinstance(module, nn.Dropout):
                    setattr(part, name, Dropout(module.p))
                elif isinstance(module, nn.MultiheadAttention):
                    setattr(part, name, Attention.like(module))
        tables = [self.positions] if self.items is None else [self.items, self.positions]
        for weight in [*(table.weight for table in tables), *(adaptor.weight for adaptor in self.adaptors.values())]:
            nn.init.normal_(weight, std=0.02)
        self.gamma = nn.Parameter(torch.zeros(()))
        if config["pre_model_path"] and config["freeze_pretrained"]:
            for module in (self.positions, self.encoder, self.decoder):
                module.requires_grad_(False)
        count = math.ceil(self.interest_ratio * len(self.modalities) * (self.n_items - 1))
        self.register_buffer("centroids", torch.zeros(count + 1, self.width))  # [C + 1, D], row 0 is no interest
        clusters = torch.ones(len(self.modalities), self.n_items, dtype=torch.long)  # one cluster until the first epoch
        clusters[:, 0] = 0
        self.register_buffer("clusters", clusters)  # [M, N], 0 for the padding

    @classmethod
    def reads_features(cls, config) -> bool:
        return True

    # -- checks of a loaded checkpoint ------------------------------------------------------------------------------

    def other_parameter(self) -> dict:
        digest = hashlib.sha256()
        for modality in self.modalities:
            digest.update(modality.encode() + getattr(self, f"features_{modality}").cpu().numpy().tobytes())
        return super().other_parameter() | {"features": digest.hexdigest()[:16]}

    def load_other_parameter(self, para: dict | None) -> None:
        super().load_other_parameter(para)
        if (para or {}).get("features") != self.other_parameter()["features"]:
            raise UserError(
                "The checkpoint was trained on other item features; use the features and modalities of the training."
            )

    # -- pre-training --------------------------------------------------------------------------------------------------

    def start_from(self, state: dict, file: str) -> None:
        """Load the weights of a checkpoint that do not belong to items.

        Raises:
            UserError: the checkpoint is of another model, of this dataset, or of other modalities or sizes.
        """
        settings, weights = state.get("config") or {}, state.get("state_dict") or {}
        if settings.get("model") != type(self).__name__:
            raise UserError(f"pre_model_path is {file}, a checkpoint of {settings.get('model')}; name one of MISSRec.")
        items = (state.get("other_parameter") or {}).get("items")
        if settings.get("dataset") == self.config["dataset"] or items == self.other_parameter()["items"]:
            raise UserError(
                f"pre_model_path is {file}, which was trained on the same items (dataset {settings.get('dataset')}); "
                "name a checkpoint of another dataset, or continue this training with the option resume."
            )
        theirs = {name: weight for name, weight in weights.items() if name not in OF_ITEMS}
        found = {name: tuple(weight.shape) for name, weight in theirs.items()}
        needed = {name: tuple(weight.shape) for name, weight in self.state_dict().items() if name not in OF_ITEMS}
        if found != needed:
            name = min(name for name in {*found, *needed} if found.get(name) != needed.get(name))
            raise UserError(
                f"pre_model_path is {file}, which does not fit this run: the shape of {name} is {found.get(name, 'missing')} "
                f"there and {needed.get(name, 'missing')} here; use the same modalities, encoders of features and sizes in "
                "both runs."
            )
        self.load_state_dict(theirs, strict=False)
        self.logger.info(f"Training starts from {len(theirs)} weights of {file} (dataset {settings.get('dataset')})")

    # -- interests ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def before_epoch(self, epoch: int, resumed: bool = False) -> None:
        """Cluster the vectors of all items in all modalities; a checkpoint within the epoch contains the clusters."""
        if resumed:
            return
        was_training = self.training
        self.eval()
        points = torch.cat([x[1:] for x in self.modality_vectors()]).float().cpu().numpy()  # [M (N - 1), D]
        found = kmeans(points, len(self.centroids) - 1, self.seed + epoch)
        self.centroids[1:] = torch.from_numpy(found.centres)
        labels = torch.from_numpy(found.labels.reshape(len(self.modalities), -1)) + 1
        self.clusters[:, 1:] = labels.to(self.clusters.device)
        self.train(was_training)

    def interests(self, items: Tensor) -> Tensor:
        """Distinct clusters of the histories' items in all modalities, ascending, padded with 0; int64 [B, S].

        Args:
            items: int64 [B, T], padded with 0.
        """
        found = self.clusters[:, items].transpose(0, 1).flatten(1).sort(dim=1).values  # [B, M T]
        found = found.masked_fill(~starts_run(found), 0).sort(dim=1, descending=True).values
        return found[:, : max(1, int((found > 0).sum(1).max()))].flip(1)

    # -- the network -------------------------------------------------------------------------------------------------

    def modality_vectors(self) -> list[Tensor]:
        """x_m [N, D] of each modality."""
        return [adaptor(getattr(self, f"features_{m}")) for m, adaptor in self.adaptors.items()]

    def queries(self, items: Tensor, length: Tensor, vectors: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Query of each history [B, D], of unit length, and |p|^2 / D [B].

        Some histories at a time go through the network, so that it computes little padding if ``length`` is sorted.

        Args:
            items: int64 [B, T], padded with 0 at the end.
            length: int64 [B].
            vectors: see :meth:`modality_vectors`.
        """
        interests = self.interests(items)
        item_vectors = reduce(torch.add, vectors if self.items is None else [*vectors, self.items.weight])  # [N, D]
        tokens, users = F.embedding(items, item_vectors, padding_idx=0), self.budget.padded_users or len(items)
        outputs, sums = [], []
        for x, own, n in zip(tokens.split(users), interests.split(users), length.split(users), strict=True):
            widest = max(1, int((own > 0).sum(1).max()))
            output, known = self._read(x[:, : int(n.max())], n.to(x.device), own[:, own.shape[1] - widest :])
            outputs.append(output)
            sums.append(known)
        share = (interests > 0).sum(1, keepdim=True) / (len(self.modalities) * self.max_seq_length)
        return F.normalize(torch.cat(outputs), dim=-1), (share * torch.cat(sums)).square().sum(1) / self.width

    def _read(self, tokens: Tensor, length: Tensor, interests: Tensor) -> tuple[Tensor, Tensor]:
        """Output of the decoder at the last item [B, D], and the sum of the encoder's output at the interests [B, D].

        Args:
            tokens: vectors of the items of histories, [B, T, D].
            length: int64 [B].
            interests: see :meth:`interests`.
        """
        none, padding = interests == 0, torch.arange(tokens.shape[1], device=length.device) >= length.unsqueeze(1)
        memory = self.encoder(self.centroids[interests], src_key_padding_mask=none)  # [B, S, D]
        tokens = self.dropout(self.norm(tokens + self.positions.weight[: tokens.shape[1]]))
        (*earlier, final), norm = self.decoder.layers, self.decoder.norm
        assert norm is not None
        for layer in earlier:
            tokens = layer(tokens, memory, tgt_key_padding_mask=padding, memory_key_padding_mask=none)
        last = tokens[torch.arange(len(tokens), device=tokens.device), length - 1].unsqueeze(1)
        output = _decoded(final, last, tokens, padding, memory, none)
        return norm(output).squeeze(1), memory.masked_fill(none.unsqueeze(-1), 0).sum(1)

    def unit_vectors(self, vectors: list[Tensor]) -> tuple[list[Tensor], Tensor | None]:
        """The vectors [N, D] of each modality and the embeddings [N, D] with unit length; None without embeddings."""
        return [F.normalize(x, dim=-1) for x in vectors], None if self.items is None else F.normalize(self.items.weight, dim=-1)

    def scores(self, query: Tensor, unit_vectors: tuple[list[Tensor], Tensor | None]) -> Tensor:
        """s [B, N] of all items.

        Args:
            query: [B, D], of unit length.
            unit_vectors: see :meth:`unit_vectors`.
        """
        modalities, embeddings = unit_vectors
        products = [query @ x.T for x in modalities]  # M times [B, N]
        if len(products) == 2:  # the softmax of two numbers is the logistic function of their difference, which is faster
            first, second = products
            fused = second + torch.sigmoid(self.gamma * (first - second)) * (first - second)
        else:
            stacked = torch.stack(products)
            fused = ((self.gamma * stacked).softmax(0) * stacked).sum(0)
        return fused if embeddings is None else (query @ embeddings.T + 2 * fused) / 3

    # -- training ----------------------------------------------------------------------------------------------------

    def loss_parts(self, interaction) -> list[Callable[[], Tensor]]:
        histories = self.histories(interaction)
        target, samples = interaction[self.POS_ITEM_ID].to(self.device), len(histories.length)
        # Few parts, as each computes the vectors of all items; of equal size, as oneDNN compiles a kernel for each new shape.
        count = math.ceil(int(histories.length.sum()) / self.budget.pass_positions)
        parts: list[Callable[[], Tensor]] = []
        for rows in histories.length.argsort(descending=True, stable=True).chunk(count):
            part = histories.select(rows)
            parts.append(partial(self._loss, part.items.to(self.device), part.length, target[rows.to(self.device)], samples))
        return parts

    def _loss(self, items: Tensor, length: Tensor, target: Tensor, samples: int) -> Tensor:
        vectors = self.modality_vectors()
        query, norms = self.queries(items, length, vectors)
        modalities, embeddings = self.unit_vectors(vectors)
        without_padding = [x[1:] for x in modalities], None if embeddings is None else embeddings[1:]
        loss = self.reg_weight * norms.sum()
        for some, own in zip(query.split(SCORED_USERS), (target - 1).split(SCORED_USERS), strict=True):
            logits = self.scores(some, without_padding).float() / self.temperature
            loss = loss + F.cross_entropy(logits, own, reduction="sum")
        return loss / samples

    # -- ranking -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    @in_eval_precision
    def full_sort_predict(self, interaction) -> Tensor:
        """Scores of all items, divided by the temperature, [B, N]; -inf for the padding."""
        histories, vectors = self.histories(interaction), self.modality_vectors()
        unit_vectors = self.unit_vectors(vectors)
        scores = torch.empty(len(histories.length), self.n_items, device=self.device)
        for rows in self._batch_parts(histories.length):
            part = histories.select(rows)
            query, _ = self.queries(part.items.to(self.device), part.length, vectors)
            scores[rows.to(self.device)] = self.scores(query, unit_vectors).float() / self.temperature
        scores[:, 0] = -torch.inf
        return scores


def _decoded(
    layer: nn.TransformerDecoderLayer, positions: Tensor, tokens: Tensor, padding: Tensor, memory: Tensor, none: Tensor
) -> Tensor:
    """Output of ``layer`` at some ``positions`` [B, P, D] of its input ``tokens`` [B, T, D]; [B, P, D]."""
    attended, _ = layer.self_attn(positions, tokens, tokens, key_padding_mask=padding, need_weights=False)
    x = layer.norm1(positions + layer.dropout1(attended))
    attended, _ = layer.multihead_attn(x, memory, memory, key_padding_mask=none, need_weights=False)
    x = layer.norm2(x + layer.dropout2(attended))
    return layer.norm3(x + layer.dropout3(layer.linear2(layer.dropout(layer.activation(layer.linear1(x))))))
