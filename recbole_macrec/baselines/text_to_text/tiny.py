"""``backbone: tiny``: a small language model with random weights and a tokenizer of words, both built without a download."""
from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SPECIAL = ["<pad>", "</s>", "<unk>", "<s>"]
DIGITS = "0123456789"
MAX_WORDS = 20_000  # the most frequent words of the texts; others become <unk>


def tiny_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """Tokenizer of words, digits and punctuation; its vocabulary are those of ``texts``, and does not depend on their order."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    counts: dict[str, int] = {}
    for text in texts:
        for word in re.findall(r"\d|[^\W\d]+|[^\w\s]", text):
            counts[word] = counts.get(word, 0) + 1
    words = sorted(sorted(counts), key=lambda word: -counts[word])[:MAX_WORDS]
    names = list(dict.fromkeys([*SPECIAL, *DIGITS, *sorted(words)]))
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"\d|[^\W\d]+|[^\w\s]"), "isolated")
    ])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", bos_token="<s>"
    )


def words_of(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Words from which :func:`tiny_tokenizer` creates a tokenizer equal to ``tokenizer``, one of its own."""
    return sorted(set(tokenizer.get_vocab()) - {*SPECIAL, *DIGITS})


def tiny_t5(config, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """T5 with the sizes ``d_model``, ``d_ff``, ``num_heads``, ``d_kv``, ``encoder_layers`` and ``decoder_layers`` of
    ``config``."""
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(T5Config(  # type: ignore[call-arg]  # the stub lacks options that all configurations have
        vocab_size=len(tokenizer),
        d_model=config["d_model"],
        d_ff=config["d_ff"],
        d_kv=config["d_kv"],
        num_heads=config["num_heads"],
        num_layers=config["encoder_layers"],
        num_decoder_layers=config["decoder_layers"],
        dropout_rate=config["dropout_prob"],
        decoder_start_token_id=tokenizer.pad_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    ))


def tiny_llama(config, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """LLaMA with the sizes ``d_model``, ``d_ff``, ``num_heads`` and ``decoder_layers`` of ``config``."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config["d_model"],
        intermediate_size=config["d_ff"],
        num_attention_heads=config["num_heads"],
        num_hidden_layers=config["decoder_layers"],
        attention_dropout=config["dropout_prob"],
        max_position_embeddings=4096,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    ))
