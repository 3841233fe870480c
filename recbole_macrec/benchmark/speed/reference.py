"""Reference implementation of TIGER: transformers' T5, padded batches, ``generate`` with a Python prefix function.

Shapes: B users, S source positions, L levels, V tokens.
"""
from collections import defaultdict

import torch
import torch.nn.functional as F
from transformers import T5Config, T5ForConditionalGeneration

from recbole_macrec.generation.network.layers import TransformerSettings
from recbole_macrec.generation.vocabulary import Vocabulary

WORDS = 32_100  # T5's vocabulary, to which the released code adds the codes


def t5_names(settings: TransformerSettings) -> dict[str, str]:
    """Return our name of every weight -> the name in T5."""
    parts = {"self_attention": "SelfAttention", "cross_attention": "EncDecAttention", "feed_forward": "DenseReluDense"}
    weights = {"query": "q", "key": "k", "value": "v", "out": "o", "up": "wi", "down": "wo"}
    names = {"table.weight": "shared.weight"}
    for half, depth in (("encoder", settings.encoder_layers), ("decoder", settings.decoder_layers)):
        names[f"{half}_norm.weight"] = f"{half}.final_layer_norm.weight"
        names[f"{half}_bias.weight"] = f"{half}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        layers = ["self_attention", "feed_forward"] if half == "encoder" else list(parts)
        for i in range(depth):
            for j, layer in enumerate(layers):
                theirs = f"{half}.block.{i}.layer.{j}"
                names[f"{half}.{i}.{layer}.norm.weight"] = f"{theirs}.layer_norm.weight"
                for ours in ("up", "down") if layer == "feed_forward" else ("query", "key", "value", "out"):
                    names[f"{half}.{i}.{layer}.{ours}.weight"] = f"{theirs}.{parts[layer]}.{weights[ours]}.weight"
    return names


def t5_config(vocabulary_size: int, settings: TransformerSettings, **options) -> T5Config:
    """Return the configuration of the T5 that equals our transformer with these settings."""
    options |= {"tie_word_embeddings": True}
    return T5Config(
        vocab_size=vocabulary_size,
        d_model=settings.d_model,
        d_ff=settings.d_ff,
        d_kv=settings.d_kv,
        num_heads=settings.num_heads,
        num_layers=settings.encoder_layers,
        num_decoder_layers=settings.decoder_layers,
        dropout_rate=settings.dropout,
        feed_forward_proj="relu",
        **options,
    )


class LevelwiseT5(T5ForConditionalGeneration):
    """T5 with the softmax over the codes of one level only, as in our models; used to check equality, not speed."""

    blocked: torch.Tensor | None = None  # [L + 1, V], -inf outside the level; the last row follows the end of an ID
    level_after: torch.Tensor | None = None  # [V], the level that follows a token

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        if self.blocked is not None and self.level_after is not None:
            output.logits = output.logits + self.blocked[self.level_after[kwargs["decoder_input_ids"]]]
        return output


class Reference:
    """T5 with the weights of a model of one modality.

    Args:
        model: TIGER of this package.
        words: number of additional tokens before the codes, with random embeddings; no ID contains them.
        levelwise: restrict the softmax to the codes of a level, as our models do; otherwise it is over all tokens.
    """

    def __init__(self, model, words: int = 0, levelwise: bool = False):
        self.words, self.modality = words, model.modalities[0]
        self.vocabulary: Vocabulary = model.vocabulary
        self.device = next(model.parameters()).device
        self.codes = model.tables[self.modality].codes  # [n_items, L]
        self.start = words + self.vocabulary.start[self.modality]
        self.offsets = torch.tensor(self.vocabulary.offsets[self.modality], device=self.device) + words
        settings = model.network.settings
        size = words + len(self.vocabulary)
        config = t5_config(size, settings, decoder_start_token_id=self.start, eos_token_id=None, pad_token_id=0)
        torch.manual_seed(0)
        self.t5 = LevelwiseT5(config).to(self.device)
        self._copy(model.network.state_dict(), t5_names(settings))
        if levelwise:
            self._restrict(size)
        children: defaultdict[tuple, set[int]] = defaultdict(set)
        self.item_of: dict[tuple, int] = {}
        for item, row in enumerate((self.codes + self.offsets).tolist()[1:], start=1):
            self.item_of[tuple(row)] = item
            for length in range(len(row)):
                children[tuple(row[:length])].add(row[length])
        self.children = {prefix: sorted(tokens) for prefix, tokens in children.items()}

    def _copy(self, ours: dict, names: dict[str, str]) -> None:
        theirs = self.t5.state_dict()
        for name, t5_name in names.items():
            target = theirs[t5_name]
            with torch.no_grad():
                (target[self.words :] if name == "table.weight" else target).copy_(ours[name])

    def _restrict(self, size: int) -> None:
        sizes = self.vocabulary.sizes[self.modality]
        blocked = torch.full((len(sizes) + 1, size), -torch.inf, device=self.device)
        blocked[-1] = 0
        level_after = torch.full((size,), len(sizes), device=self.device)
        level_after[self.start] = 0
        for level, (offset, count) in enumerate(zip(self.offsets.tolist(), sizes)):
            blocked[level, offset : offset + count] = 0
            level_after[offset : offset + count] = level + 1
        self.t5.blocked, self.t5.level_after = blocked, level_after

    def eval(self) -> "Reference":
        """Switch to evaluation mode."""
        self.t5.eval()
        return self

    def source(self, history: torch.Tensor, length: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return histories [B, T] of ``length`` [B] items as padded input of T5."""
        longest = int(length.max())
        tokens = (self.codes[history[:, :longest]] + self.offsets).flatten(1)  # [B, S]
        keep = torch.arange(tokens.shape[1], device=self.device) < (length * len(self.offsets)).unsqueeze(1)
        return {"input_ids": tokens.masked_fill(~keep, 0), "attention_mask": keep.long()}

    def loss(self, history: torch.Tensor, length: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the cross-entropy of the tokens of the target items [B]."""
        labels = self.codes[target] + self.offsets  # [B, L]
        shifted = torch.cat([torch.full_like(labels[:, :1], self.start), labels[:, :-1]], dim=1)
        logits = self.t5(**self.source(history, length), decoder_input_ids=shifted).logits
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())

    @torch.no_grad()
    def rank(self, history: torch.Tensor, length: torch.Tensor, beams: int) -> list[list[int]]:
        """Return the ``beams`` best items of every user."""
        sequences = self.t5.generate(
            **self.source(history, length),
            max_new_tokens=len(self.offsets),
            num_beams=beams,
            num_return_sequences=beams,
            prefix_allowed_tokens_fn=lambda _, sentence: self.children[tuple(sentence.tolist()[1:])],
        )
        items = [self.item_of[tuple(row)] for row in sequences[:, 1:].tolist()]
        return [items[i : i + beams] for i in range(0, len(items), beams)]
