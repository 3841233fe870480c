"""Pretrained language models as backbones, extended by the tokens of items.

Shapes: B samples, S positions of a prompt, T positions of a response, n positions of all responses, D model width, V words of
the backbone, A added tokens.
"""
from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from recbole_macrec.baselines.text_to_text.tiny import tiny_llama, tiny_t5, tiny_tokenizer, words_of
from recbole_macrec.data.encoders.source import AutoClass, ModelSource, find_model
from recbole_macrec.errors import UserError
from recbole_macrec.generation.network.windows import decoder_input

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TINY = "tiny"
WORDS = "backbone_words"  # in the options of a saved model: the words of the tokenizer of a tiny backbone
FINGERPRINT = "backbone_fingerprint"  # in the options of a saved model
T5_TYPES = ("t5", "mt5")
TOLERANCE = 1e-3  # largest difference between our logits and the backbone's, relative to the largest logit


class Prompts(NamedTuple):
    """Embedded prompts of B users, padded on the right."""

    embeddings: torch.Tensor  # [B, S, D]
    keep: torch.Tensor  # bool [B, S], False at padding

    @property
    def users(self) -> int:
        return len(self.keep)

    @property
    def device(self) -> torch.device:
        return self.keep.device


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad rows of numbers on the right with 0: int64 [B, S], and a mask bool [B, S] of the numbers."""
    lengths = np.array([len(row) for row in rows])
    keep = np.arange(lengths.max()) < lengths[:, None]
    values = np.zeros(keep.shape, dtype=np.int64)
    values[keep] = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
    return torch.from_numpy(values).to(device), torch.from_numpy(keep).to(device)


class Backbone(nn.Module):
    """A language model whose vocabulary is extended by ``names``, which get rows of their own beside the backbone's tables.

    Token V + i is the i-th added token. A name that the tokenizer has already keeps its token. The added rows start near the
    mean of the backbone's rows.

    Args:
        model: a model of transformers with a head.
        source: name and content of the model.
        names: the tokens to add.

    Raises:
        UserError: the model computes its logits in another way than as a product of hidden state and head.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: dict, names: Sequence[str]):
        super().__init__()
        self.model, self.tokenizer, self.source = model, tokenizer, source
        table, head = self.table, self.head
        vocabulary = tokenizer.get_vocab()
        added = [name for name in names if name not in vocabulary]
        self.words = table.num_embeddings
        self._token = {**{name: vocabulary[name] for name in names if name in vocabulary},
                       **{name: self.words + i for i, name in enumerate(added)}}
        self.tied = head.weight is table.weight
        self.scale = self._scale_of_logits()
        self.embedding_scale = self._scale_of_embeddings()
        self.added = new_rows(table.weight, len(added))  # [A, D]
        self.added_head = None if self.tied else new_rows(head.weight, len(added))
        digest = hashlib.sha256(json.dumps([source, sorted(vocabulary.items()), added]).encode())
        self.fingerprint = digest.hexdigest()[:16]

    @property
    def table(self) -> nn.Embedding:
        return input_table(self.model)

    @property
    def head(self) -> nn.Linear:
        return self.model.get_output_embeddings()

    def tokens(self, names: Sequence[str]) -> list[int]:
        """Tokens of added names."""
        return [self._token[name] for name in names]

    def saved_options(self) -> dict:
        """Options from which the backbone of a saved model is created again, and checked."""
        words = {WORDS: words_of(self.tokenizer)} if self.source == {"model": TINY} else {}
        return {FINGERPRINT: self.fingerprint, **words}

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without special tokens."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embeddings [..., D] of tokens."""
        if not len(self.added):
            return self.table(tokens)
        known = tokens < self.words
        added = F.embedding((tokens - self.words).clamp(min=0), self.added) * self.embedding_scale
        return torch.where(known.unsqueeze(-1), self.table(tokens.clamp(max=self.words - 1)), added)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [..., V + A] of hidden states [..., D]."""
        hidden = hidden * self.scale
        return torch.cat(
            [self.head(hidden), F.linear(hidden, self.added if self.added_head is None else self.added_head)], dim=-1
        )

    @torch.no_grad()
    def merged(self) -> PreTrainedModel:
        """A copy of the model whose tables include the added tokens."""
        model = copy.deepcopy(self.model)
        model.resize_token_embeddings(self.words + len(self.added), mean_resizing=False)
        input_table(model).weight[self.words :] = self.added
        if not self.tied:
            model.get_output_embeddings().weight[self.words :] = self.added_head
        return model

    def states(self, prompts: Prompts, responses: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        """Hidden states that predict each token of the responses.

        Args:
            responses: int64 [B, T].
            keep: bool [B, T], False at padding.

        Returns:
            [n, D], the positions of ``keep`` in row-major order.
        """
        raise NotImplementedError

    def memory(self, prompts: Prompts) -> Prompts:
        """Return the input of the search: the prompts, or their encoded states."""
        raise NotImplementedError

    def _own_states(self, tokens: torch.Tensor) -> torch.Tensor:
        """Hidden states of the backbone before its head, [1, T, D], for the check of the logits."""
        raise NotImplementedError

    @torch.no_grad()
    def _scale_of_logits(self) -> float:
        """Factor of the hidden states before the head: T5 with tied tables divides by the square root of its width."""
        training = self.model.training
        self.model.eval()
        tokens = torch.arange(3, device=self.table.weight.device).unsqueeze(0) % self.words
        states, expected = self._own_states(tokens), self._own_logits(tokens)
        self.model.train(training)
        for scale in (1.0, self.table.embedding_dim**-0.5):
            difference = (self.head(states * scale) - expected).abs().max()
            if difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
                return scale
        raise UserError(
            f"backbone is a {self.model.config.model_type} model, which does not compute its logits as a product of hidden "
            "state and output table; choose another model, such as one of LLaMA, Qwen2, Mistral or GPT-2 (LCRec), or T5 (P5, "
            "VIP5)."
        )

    def _own_logits(self, tokens: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    @torch.no_grad()
    def _scale_of_embeddings(self) -> float:
        """Factor by which the table multiplies its rows; that of Gemma multiplies by the square root of its width."""
        token = self.table.weight.square().sum(1).argmax()
        row = self.table.weight[token]
        return float((self.table(token) @ row) / (row @ row))


class EncoderDecoder(Backbone):
    """T5: the prompt is encoded, and a decoder generates the response."""

    @property
    def start(self) -> int:
        """Token that starts a response."""
        return self.model.config.decoder_start_token_id

    def memory(self, prompts: Prompts) -> Prompts:
        hidden = self.model.get_encoder()(
            inputs_embeds=prompts.embeddings, attention_mask=prompts.keep.long()
        ).last_hidden_state
        return Prompts(hidden, prompts.keep)

    def states(self, prompts: Prompts, responses: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        memory = self.memory(prompts)
        inputs = decoder_input(responses, self.start)
        hidden = self.model.get_decoder()(
            inputs_embeds=self.embed(inputs),
            encoder_hidden_states=memory.embeddings,
            encoder_attention_mask=memory.keep.long(),
            use_cache=False,
        ).last_hidden_state
        return hidden[keep]

    def _own_states(self, tokens: torch.Tensor) -> torch.Tensor:
        memory = self.memory(Prompts(self.table(tokens), torch.ones_like(tokens, dtype=torch.bool)))
        decoder = self.model.get_decoder()
        return decoder(input_ids=tokens, encoder_hidden_states=memory.embeddings, use_cache=False).last_hidden_state

    def _own_logits(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=tokens, decoder_input_ids=tokens, use_cache=False).logits


class CausalModel(Backbone):
    """A causal language model: the response continues the prompt."""

    def memory(self, prompts: Prompts) -> Prompts:
        return prompts

    def check_length(self, tokens: int) -> None:
        """Check that the model has positions for ``tokens`` tokens, and attends to all of them.

        Raises:
            UserError: it has not, or attends to the last ones only (a sliding window), which the search does not imitate.
        """
        config = self.model.config
        limits = [getattr(config, name, None) for name in ("max_position_embeddings", "sliding_window")]
        limit = min((limit for limit in limits if limit), default=tokens)
        if tokens > limit:
            raise UserError(
                f"A prompt and its response have {tokens} tokens, but backbone reads at most {limit} tokens in all its layers; "
                "lower text_tokens or MAX_ITEM_LIST_LENGTH, or choose another model."
            )

    def states(self, prompts: Prompts, responses: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        length, count = prompts.keep.sum(1, keepdim=True), keep.sum(1, keepdim=True)
        longest = int((length + count).max())
        self.check_length(longest)
        position = torch.arange(longest, device=prompts.device).expand(len(keep), -1)
        in_prompt, exists = position < length, position < length + count
        place = (position - length).clamp(0, responses.shape[1] - 1)  # in the response
        embeddings = torch.where(
            in_prompt.unsqueeze(-1),
            F.pad(prompts.embeddings, (0, 0, 0, max(0, position.shape[1] - prompts.keep.shape[1])))[:, : position.shape[1]],
            self.embed(responses.gather(1, place)),
        )
        hidden = self.model.base_model(
            inputs_embeds=embeddings, attention_mask=exists.long(), position_ids=position, use_cache=False
        ).last_hidden_state
        before = position + 1  # the position that a state predicts
        return hidden[(before >= length) & (before < length + count)]

    def _own_states(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model.base_model(input_ids=tokens, use_cache=False).last_hidden_state

    def _own_logits(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=tokens, use_cache=False).logits


def input_table(model: PreTrainedModel) -> nn.Embedding:
    """The table [V, D] of the words of a model."""
    return cast(nn.Embedding, model.get_input_embeddings())


def new_rows(table: torch.Tensor, count: int) -> nn.Parameter:
    """Random rows [count, D] around the mean of a table [V, D], with the deviation of its columns."""
    table = table.detach().float()
    return nn.Parameter(table.mean(0) + table.std(0) * torch.randn(count, table.shape[1], device=table.device))


def load_t5(config, texts: Sequence[str], names: Sequence[str]) -> EncoderDecoder:
    """Load the T5 that ``backbone`` names; the vocabulary of a tiny one is the words of ``texts``, or of a saved model.

    Raises:
        UserError: it is unavailable, or of another architecture.
    """
    if config["backbone"] == TINY:
        tokenizer = tiny_tokenizer(config[WORDS] or texts)
        return EncoderDecoder(tiny_t5(config, tokenizer), tokenizer, {"model": TINY}, names)
    from transformers import AutoModelForSeq2SeqLM

    source = find_model(config["backbone"], config["backbone_revision"], option="backbone")
    if source.config.model_type not in T5_TYPES:
        raise UserError(
            f"backbone {config['backbone']} is a {source.config.model_type} model, but {config['model']} needs a T5; "
            "choose one such as t5-small."
        )
    return EncoderDecoder(*_loaded(source, AutoModelForSeq2SeqLM, dropout_rate=config["dropout_prob"]), names)


def load_causal(config, texts: Sequence[str], names: Sequence[str]) -> CausalModel:
    """Load the causal language model that ``backbone`` names; see :func:`load_t5`."""
    if config["backbone"] == TINY:
        tokenizer = tiny_tokenizer(config[WORDS] or texts)
        return CausalModel(tiny_llama(config, tokenizer), tokenizer, {"model": TINY}, names)
    from transformers import AutoModelForCausalLM

    source = find_model(config["backbone"], config["backbone_revision"], option="backbone")
    if source.config.is_encoder_decoder:
        raise UserError(
            f"backbone {config['backbone']} is a {source.config.model_type} model, but {config['model']} needs a causal "
            "language model; choose one such as Qwen/Qwen2.5-0.5B."
        )
    return CausalModel(*_loaded(source, AutoModelForCausalLM), names)


def _loaded(source: ModelSource, auto_class: AutoClass, **settings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict]:
    from transformers import AutoTokenizer

    tokenizer = source.load(AutoTokenizer)
    for name, value in settings.items():
        setattr(source.config, name, value)
    model, report = source.load(auto_class, config=source.config, output_loading_info=True)
    if missing := sorted(report["missing_keys"]):  # transformers would leave them at random values
        raise UserError(
            f"backbone {source.model} lacks the weights {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}; choose "
            "a model that was trained with a language-model head."
        )
    return model.float(), tokenizer, source.identity
