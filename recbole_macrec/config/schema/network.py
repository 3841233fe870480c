"""Options of the networks."""
from typing import Literal

from recbole_macrec.config.schema.base import (
    Above0,
    Annotated,
    Count,
    Dropout,
    Field,
    Flag,
    Layers,
    Options,
    Positive,
    Width,
    option,
)

NETWORKS = Literal["encoder_decoder", "decoder_only"]


class SizeOptions(Options):
    """Sizes of a transformer."""

    d_model: Width = option(128, "Width of the residual stream", 128)
    d_ff: Width = option(1024, "Width of the feed-forward layers", 1024)
    num_heads: Annotated[Positive, Field(le=1024)] = option(6, "Attention heads", 6)
    d_kv: Width = option(64, "Width of a head", 64)
    decoder_layers: Layers = option(4, "Layers of the decoder", 4)
    dropout_prob: Dropout = option(0.1, "Dropout probability", 0.1)
    pass_tokens: Positive | None = option(
        None, "About the maximum number of tokens of a forward pass; None: 4,096 on CPU, 131,072 on GPU"
    )


class NetworkOptions(SizeOptions):
    """The network of a generative model."""

    network: NETWORKS = option(
        "encoder_decoder", "T5's encoder-decoder, or one causal transformer over the codes", "encoder_decoder"
    )
    encoder_attention: Literal["auto", "bidirectional", "causal"] = option(
        "auto",
        "Attention of the encoder: all items, or an item and earlier ones; auto: causal with training: per_user",
        "bidirectional",
    )
    encoder_layers: Layers = option(4, "Layers of the encoder", 4)
    output: Literal["level", "trie"] = option(
        "level", "Codes of a softmax: all codes of the level, or those that continue the prefix in the trie", "level")
    dense_head: Flag = option(
        False,
        "network: decoder_only: the state after a history also scores all items, by an embedding of each item and those of its "
        "codes",
        False,
    )
    dense_head_weight: Above0 = option(
        1.0, "dense_head: weight of its loss, the cross-entropy over all items, beside that of the codes"
    )
    loss_temperature: Above0 = option(
        1.0, "Divides the logits of the training loss; below 1, hard negatives weigh more (LETTER)", 1.0
    )
    label_smoothing: Dropout = option(0.0, "Share of the target distribution spread evenly over all codes of the softmax", 0.0)
    prompt: Literal["source", "task"] = option(
        "source",
        "What a prompt names: the input's modality, so that tasks with the same input share a pass; or input and target",
        "task",
    )
    prompt_length: Annotated[Count, Field(le=1024)] = option(4, "Learnt tokens of a task prompt before the encoder's input")
