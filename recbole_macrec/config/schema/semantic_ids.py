"""Options of the semantic IDs."""
from typing import Annotated, Literal

from pydantic import Field

from recbole_macrec.config.schema.base import (
    Above0,
    AtLeast2,
    Count,
    Flag,
    Levels,
    NotNegative,
    Number,
    OneOf,
    Options,
    Positive,
    Seed,
    Text,
    Width,
    option,
)

_Widths = Annotated[tuple[Width, ...], Field(strict=False)]


class SemanticIDOptions(Options):
    """Quantizer, collisions, and the graph of MMGRec.

    In a configuration None means: not set. The value is then that of ``rqvae_preset``, if the preset has one, or the default.

    The defaults are the paper's (presets.py), except for con_layers, lambda_con, loss_reduction and con_denominator, the
    training length, the warm-up and the restarts of unused codes. With 10 epochs of plain auto-encoding before the k-means
    initialisation and with restarts, tens of epochs are enough instead of hundreds.
    """

    semantic_ids: Literal["auto", "learn", "published"] = option(
        "auto", "learn; published: read semantic_ids/<modality>.json; auto: learn if all modalities have imported "
        "features, if one has no such file, or if the quantizer reads no features. Without such a file, modalities encoded "
        "from interactions are always learnt")
    tokenizations: Annotated[Positive, Field(le=64)] = option(
        1, "Number of semantic IDs of an item in each modality: published ones (semantic_ids/<modality>@2.json, ...), or "
        "learnt with the seeds semantic_id_seed, semantic_id_seed + 1, ... Every training sequence is written in one of them, "
        "drawn at random, and the score of an item is the mean of its log-probabilities in all; decode: beam ranks by it at an "
        "affordable cost", 1)
    quantizer: Annotated[Text, OneOf("quantizer")] = option(
        "cross_modal_rqvae",
        "Quantizer; None: cross_modal_rqvae for several modalities with an ID each, else rqvae",
        "cross_modal_rqvae",
    )
    representation: Literal["modality", "concatenated", "graph"] = option(
        "modality",
        "What is quantized: each modality, all features side by side, or representations of the interaction graph",
        "modality",
    )
    collision: Annotated[Text, OneOf("collision")] = option(
        "reassign",
        "Items with the same ID: the farther one gets the nearest unused ID; one more token (item order, popularity, "
        "random); sinkhorn: all of them get near unused codes of the last level; keep: nothing changes",
        "reassign",
    )
    rqvae_preset: Literal["paper", "released", "default"] | None = option(
        None, "Set of values for the cross-modal loss; options that are set win", "paper")
    codebook_levels: Levels = option(4, "Number L of codes of an ID", 4)
    codebook_size: AtLeast2 = option(256, "Number K of codes of a level; at most the number of items", 256)
    code_dim: Width = option(32, "Width D of the codewords", 32)
    rqvae_projection: Annotated[Count, Field(le=65536)] = option(
        768, "Width of the linear layer before the MLP; 0: no such layer", 768
    )
    rqvae_hidden_sizes: _Widths = option(
        (2048, 1024, 512, 256, 128, 64),
        "Hidden widths of the encoder; the decoder mirrors them",
        (2048, 1024, 512, 256, 128, 64),
    )
    rqvae_epochs: Positive = option(100, "Epochs after the warm-up", 1000)
    rqvae_batch_size: AtLeast2 = option(1024, "Items of an optimizer step", 1024)
    rqvae_learning_rate: Above0 = option(1e-3, "Learning rate of AdamW; 0.01 makes codes collapse", 1e-3)
    rqvae_weight_decay: NotNegative = option(1e-4, "Weight decay of AdamW", 1e-4)
    rqvae_precision: Literal["auto", "fp32", "bf16"] = option(
        "auto", "Precision of the encoder and decoder in training; auto: bf16 if the processor has it in hardware. Codewords "
        "and codes are computed in fp32")
    rqvae_warmup_epochs: Count = option(10, "Epochs of plain auto-encoding before the codebooks are initialised by k-means", 0)
    restart_dead_codes: Flag = option(True, "Move codes that no item used in an epoch to residuals of random items", False)
    commitment_weight: NotNegative = option(0.25, "Weight alpha of the commitment term of L_rq", 0.25)
    loss_reduction: Literal["mean", "sum"] = option(
        "mean", "L_recon and L_rq: means over the width of the vectors, or squared norms", "sum")
    residual: Literal["detached", "straight_through"] = option(
        "detached", "Gradient through residuals: r - sg[e], or the straight-through output of the released code", "detached")
    sinkhorn_epsilon: NotNegative = option(
        0.0,
        "Regularisation of Sinkhorn's algorithm, which balances the codes of the last level over each batch in training; 0: "
        "without",
    )
    con_layers: Annotated[tuple[Annotated[Count, Field(le=25)], ...], Field(strict=False)] = option(
        (0,), "Layers of L_con, counted from 0", (2, 3))
    con_positives: Literal["pseudo_label", "self"] = option(
        "pseudo_label",
        "Positives of L_con: items with the same pseudo-label in the other modality, or the item itself",
        "pseudo_label",
    )
    con_denominator: Literal["others", "all"] = option(
        "others", "Items in the denominator of L_con: all of the batch but the anchor, or all", "all")
    lambda_con: NotNegative = option(0.03, "Weight of L_con; 0: without", 0.1)
    lambda_align: NotNegative = option(0.001, "Weight of L_align; 0: without", 0.001)
    pseudo_labels: AtLeast2 = option(512, "k-means clusters of each modality that give the positives of L_con", 512)
    contrast_temperature: Above0 = option(0.1, "Temperature of L_con and L_align", 0.1)
    codes_epoch: Literal["last", "lowest_collision"] = option("last", "Epoch whose codes are the IDs")
    standardize: Flag = option(True, "Standardise the columns of the features")
    semantic_id_seed: Seed | None = option(None, "Seed of the quantizer; None: the option seed")
    lambda_cf: NotNegative = option(0.01, "quantizer: letter: weight of the collaborative loss")
    lambda_div: NotNegative = option(1e-4, "quantizer: letter: weight of the diversity loss")
    cf_epochs: Positive = option(
        20, "quantizer: letter: epochs of the SASRec whose item embeddings are the collaborative vectors"
    )
    cid_clusters: AtLeast2 = option(20, "quantizer: cid: parts into which a set of items is split")
    cid_leaf_size: Positive = option(500, "quantizer: cid: largest number of items that are not split")
    graph_sizes: _Widths = option(
        (128, 128, 64), "Width of the input (half features, half free embedding), then of each layer's output")
    graph_dropout: Annotated[tuple[Annotated[Number, Field(ge=0, lt=1)], ...], Field(strict=False)] = option(
        (0.5, 0.2), "Dropout of each layer's input")
    graph_epochs: Positive = option(60, "Epochs of BPR")
    graph_batch_size: Positive = option(3000, "Interactions of an optimizer step")
    graph_learning_rate: Above0 = option(1e-3, "Learning rate of Adam")
    graph_weight_decay: NotNegative = option(1e-6, "Weight decay of Adam")
    graph_negatives: Positive = option(5, "Negative items per interaction")
    graph_training: Literal["staged", "joint"] = option(
        "staged",
        "staged: the graph, then the RQ-VAE; joint: an epoch of each in turn, rqvae_warmup_epochs + rqvae_epochs times",
    )
    encoder_input: Literal["graph", "learnt"] | None = option(
        None, "MMGRec: what the encoder reads of items and users, graph representations or learnt embeddings")


SemanticIDOptions.optional = frozenset(SemanticIDOptions.model_fields)


class TokenizationOptions(Options):
    """Use of several tokenizations by a generative model."""

    tokenization_tuning: Count = option(
        0, "Number of last epochs that train the first of several tokenizations only; rank by it with ranked_tokenizations: 1")
    ranked_tokenizations: Positive | None = option(
        None, "Tokenizations whose log-probabilities are averaged in ranking: the first ones; None: all")
