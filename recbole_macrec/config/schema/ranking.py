"""Options of the ranking."""
from typing import Literal

from recbole_macrec.config.schema.base import Options, Positive, option
from recbole_macrec.config.schema.training import Precision


class PrecisionOptions(Options):
    """Precision of the ranking."""

    eval_precision: Precision = option("fp32", "Precision of every ranking")


class SearchOptions(Options):
    """Options of a ranking that can be changed after the training."""

    num_beams: Positive = option(20, "Beams per modality; at least the largest topk", 20)
    decode: Literal["beam", "certified", "exact", "fused"] = option(
        "beam",
        "beam: the items that the beams find; exact: all items by log-probability; certified: the first max(topk) items of "
        "exact, from the prefixes that can lead to them, which are many with several tokenizations; fused: the num_beams best "
        "items of every modality and of the dense_head, by a weighted sum of both scores whose weight is chosen on the "
        "validation data",
        "beam",
    )
    certified_rows: Positive = option(
        1024, "decode: certified: maximum number of prefixes for a user and modality; users who need more are ranked by exact")
    fusion: Literal["official", "mean", "lse", "rescore"] = option(
        "official",
        "Ranking over several modalities: the released rule; the mean of the log-probabilities (also named rescore); the "
        "logarithm of the mean probability",
        "official",
    )


class RankingOptions(PrecisionOptions, SearchOptions):
    """Options of the ranking of a generative model."""

    item_prior: Literal["popularity", "none"] = option(
        "popularity",
        "Items with the same ID: popularity: they divide its probability in proportion to their numbers of training "
        "interactions plus one; none: each has all of it, so they are ranked in item order",
        "none",
    )
