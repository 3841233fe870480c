"""Encode texts with any language model: pool each field, by default the mean over its tokens, then average the fields.

Shapes: N items, B fields in a batch, T tokens, D width.
"""
from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from recbole_macrec.data.encoders.base import Kind, RawItem, require_usable, without_text
from recbole_macrec.data.encoders.batches import Batches
from recbole_macrec.data.encoders.pretrained import PretrainedEncoder
from recbole_macrec.data.encoders.source import ModelSource, load_model
from recbole_macrec.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

POSITIONS_AFTER_PADDING = {  # types of models whose first position has the number pad_token_id + 1
    "camembert", "data2vec-text", "ibert", "longformer", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta",
    "xlm-roberta-xl", "xmod",
}  # fmt: skip
LONGEST = 2048  # maximum tokens of a field if neither options nor model set a lower limit


class Field(NamedTuple):
    """One text field of item number ``row``, as token ids."""

    row: int
    ids: list[int]


class TextModel(PretrainedEncoder):
    """Encoder-only and decoder-only models, and the encoders of encoder-decoder models.

    Fields are padded on the right and masked, so that features do not depend on the other texts of a batch. The mean includes
    the special tokens of the tokenizer, as in the published features and in sentence-transformers.
    """

    kind: Kind = "text"
    poolings = ("mean", "cls", "pooler")

    @staticmethod
    def default_pooling(source: ModelSource) -> str:
        """Return ``mean`` for every model."""
        return "mean"

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        from transformers import AutoTokenizer

        tokenizer = self.source.load(AutoTokenizer)
        if self.pooling == "cls" and tokenizer.cls_token_id is None:
            raise self.pooling_error()
        return tokenizer

    @cached_property
    def _model(self) -> PreTrainedModel:
        model = load_model(self.source, self.dtype, self.device, unused=() if self.pooling == "pooler" else ("pooler",))
        model.config.use_cache = False  # nothing is generated, so keys and values are not used again
        return model

    @cached_property
    def _batches(self) -> Batches:
        on_gpu = self.device.type == "cuda"
        return Batches(self.options.batch_size or (512 if on_gpu else 64),
                       self.options.batch_tokens or (65_536 if on_gpu else 4_096))

    def unusable(self, items: Sequence[RawItem]) -> dict[str, str]:
        return self._without_tokens(items, np.bincount([field.row for field in self._tokenize(items)], minlength=len(items)))

    def _without_tokens(self, items: Sequence[RawItem], n_fields: np.ndarray) -> dict[str, str]:
        """Return item token -> reason for the items without tokens; ``n_fields`` [N] counts fields with tokens."""
        reason = f"no tokens for {self.source.model} in the text"
        return {item.token: reason for item, count in zip(items, n_fields) if not count} | without_text(items)

    def encode(self, items: Sequence[RawItem], advance: Callable[[int], object] = lambda items: None) -> np.ndarray:
        """Return float32 [N, D], the mean over an item's non-empty fields. See the base class."""
        fields = sorted(self._tokenize(items), key=lambda field: -len(field.ids))
        rows = np.array([field.row for field in fields], dtype=np.int64)
        remaining = np.bincount(rows, minlength=len(items))  # [N]: fields of each item that are not encoded yet
        require_usable(self.kind, self._without_tokens(items, remaining))
        weights = 1 / remaining
        features = np.zeros((len(items), 0), dtype=np.float32)
        for batch, pooled in self._batches.run(fields, self._pool, length=lambda field: len(field.ids)):
            if not features.size:
                features = np.zeros((len(items), pooled.shape[1]), dtype=np.float32)
            done = 0
            for field, vector in zip(batch, pooled.cpu().numpy()):
                features[field.row] += weights[field.row] * vector
                remaining[field.row] -= 1
                done += not remaining[field.row]
            advance(done)
        return features

    def _tokenize(self, items: Sequence[RawItem]) -> list[Field]:
        fields = [(row, text) for row, item in enumerate(items) for text in item.texts if text.strip()]
        if not fields:
            return []
        rows, texts = zip(*fields)
        ids = self._tokenizer(list(texts), truncation=True, max_length=self._max_length())["input_ids"]
        return [Field(row, list(tokens)) for row, tokens in zip(rows, ids) if len(tokens)]

    def _max_length(self) -> int:
        limit = min(self._tokenizer.model_max_length, positions(self.source.config))  # the former is 1e30 if not set
        max_length = self.options.max_length or min(limit, LONGEST)
        if max_length > limit:
            raise UserError(
                f"max_length is {max_length}, but {self.source.model} reads {limit} tokens at most; lower max_length"
            )
        return max_length

    @torch.inference_mode()
    def _pool(self, batch: Sequence[Field]) -> torch.Tensor:
        """Return float32 [B, D]."""
        lengths = torch.tensor([len(field.ids) for field in batch])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]  # [B, T]
        ids = torch.full(mask.shape, self._tokenizer.pad_token_id or 0)
        ids[mask] = torch.tensor([token for field in batch for token in field.ids])
        mask = mask.to(self.device)
        output = self._model(input_ids=ids.to(self.device), attention_mask=mask.long())
        if self.pooling == "pooler":
            pooled = getattr(output, "pooler_output", None)
            if pooled is None:
                raise self.pooling_error()
            return pooled.float()
        hidden = output.last_hidden_state.float()  # [B, T, D]
        if self.pooling == "cls":
            return hidden[:, 0]
        return hidden.masked_fill(~mask[..., None], 0).sum(1) / mask.sum(1, keepdim=True)


def positions(config: PretrainedConfig) -> int:
    """Number of tokens for which a model has positions; the largest int64 if its configuration sets no limit."""
    limit = getattr(config, "max_position_embeddings", None) or sys.maxsize
    return limit - config.pad_token_id - 1 if config.model_type in POSITIONS_AFTER_PADDING else limit
