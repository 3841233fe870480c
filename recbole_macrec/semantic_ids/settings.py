"""Options of the semantic IDs, read from a RecBole configuration and checked."""
from collections import defaultdict
from dataclasses import asdict, dataclass, fields
from typing import Any

from recbole_macrec.errors import UserError, nearest
from recbole_macrec.semantic_ids.collisions import RESOLUTIONS
from recbole_macrec.semantic_ids.presets import PRESETS
from recbole_macrec.semantic_ids.quantizers import QUANTIZERS

CHOICES = {
    "semantic_ids": ("auto", "learn", "published"),
    "quantizer": QUANTIZERS,
    "representation": ("modality", "concatenated", "graph"),
    "collision": RESOLUTIONS,
    "residual": ("detached", "straight_through"),
    "con_positives": ("pseudo_label", "self"),
    "codes_epoch": ("last", "lowest_collision"),
    "graph_training": ("staged", "joint"),
    "encoder_input": ("graph", "learnt"),
}
SMALLEST_INT = {
    "codebook_levels": 1, "codebook_size": 2, "code_dim": 1, "rqvae_projection": 0, "rqvae_epochs": 1,
    "rqvae_batch_size": 2, "rqvae_warmup_epochs": 0, "pseudo_labels": 2, "semantic_id_seed": 0,
    "graph_epochs": 1, "graph_batch_size": 1, "graph_negatives": 1,
}
POSITIVE = ("rqvae_learning_rate", "contrast_temperature", "graph_learning_rate")
NOT_NEGATIVE = ("rqvae_weight_decay", "commitment_weight", "lambda_con", "lambda_align", "graph_weight_decay", "sinkhorn_epsilon")
INT_TUPLES = {"rqvae_hidden_sizes": 1, "con_layers": 0, "graph_sizes": 1}
GRAPH = ("graph_sizes", "graph_dropout", "graph_epochs", "graph_batch_size", "graph_learning_rate", "graph_weight_decay",
         "graph_negatives", "graph_training")
PAPER_LAYERS = PRESETS["paper"]["con_layers"].value
FLAGS = ("standardize", "restart_dead_codes")


@dataclass(frozen=True)
class SemanticIDSettings:
    """Options of the semantic IDs of ``modalities``, named as in the property files.

    Defaults are those of the paper (presets.py, "paper"), except for the training length, the warm-up and the restarts of
    unused codes, which are ours. With 10 epochs of plain auto-encoding before the k-means initialisation and with restarts,
    tens of epochs are enough instead of hundreds.
    """

    modalities: tuple[str, ...]
    semantic_ids: str = "auto"  # source of the IDs; used by the caller
    quantizer: str = "cross_modal_rqvae"
    representation: str = "modality"  # what is quantized
    collision: str = "reassign"
    rqvae_preset: str | None = None
    codebook_levels: int = 4  # L
    codebook_size: int = 256  # K
    code_dim: int = 32  # D
    rqvae_projection: int = 768  # width of the linear layer before the MLP; 0: none
    rqvae_hidden_sizes: tuple[int, ...] = (2048, 1024, 512, 256, 128, 64)
    rqvae_epochs: int = 100  # after the warm-up
    rqvae_batch_size: int = 1024
    rqvae_learning_rate: float = 1e-3
    rqvae_weight_decay: float = 1e-4
    rqvae_warmup_epochs: int = 10  # plain auto-encoding before the codebooks are initialised
    restart_dead_codes: bool = True
    commitment_weight: float = 0.25  # alpha
    residual: str = "detached"
    sinkhorn_epsilon: float = 0.0  # balances the codes of the last level in training; 0: off
    con_layers: tuple[int, ...] = (2, 3)
    con_positives: str = "pseudo_label"
    lambda_con: float = 0.1
    lambda_align: float = 0.001
    pseudo_labels: int = 512
    contrast_temperature: float = 0.1
    codes_epoch: str = "last"  # epoch whose codes are the IDs
    standardize: bool = True
    semantic_id_seed: int = 2020
    graph_sizes: tuple[int, ...] = (128, 128, 64)  # width of the input, then of each layer's output
    graph_dropout: tuple[float, ...] = (0.5, 0.2)  # of each layer's input
    graph_epochs: int = 60
    graph_batch_size: int = 3000  # interactions
    graph_learning_rate: float = 1e-3
    graph_weight_decay: float = 1e-6
    graph_negatives: int = 5  # per interaction
    graph_training: str = "staged"
    encoder_input: str | None = None  # input of the model's encoder, if not IDs (MMGRec)

    @classmethod
    def from_config(cls, config: Any, modalities: list[str] | tuple[str, ...]) -> "SemanticIDSettings":
        """Read the options from ``config[name]``. Options that are not set (None) come from the preset, then the defaults.

        The default ``quantizer`` is cross_modal_rqvae for two or more modalities with separate IDs, and rqvae for one ID. The
        default ``semantic_id_seed`` is ``config["seed"]``.

        Raises:
            UserError: for a value of the wrong type or out of range, naming the option.
        """
        modalities = tuple(modalities)
        if not modalities or len(set(modalities)) != len(modalities):
            raise UserError(f"modalities = {list(modalities)}: expected at least one name, without duplicates.")
        several = len(modalities) > 1 and config["representation"] in (None, "modality")
        values: dict[str, Any] = {"quantizer": "cross_modal_rqvae" if several else "rqvae"}
        if config["seed"] is not None:
            values["semantic_id_seed"] = config["seed"]
        values |= _preset(config["rqvae_preset"])
        names = [f.name for f in fields(cls) if f.name != "modalities"]
        values |= {name: config[name] for name in names if config[name] is not None}
        if isinstance(layers := values.get("con_layers", PAPER_LAYERS), slice):
            levels = values.get("codebook_levels") if values["quantizer"] == "cross_modal_rqvae" else None
            values["con_layers"] = range(levels if _is_int(levels, 1) else cls.codebook_levels)[layers]
        settings = cls(modalities, **{name: _checked(name, value) for name, value in values.items()})
        settings._check_con_layers()
        settings._check_representation()
        return settings

    @property
    def ids(self) -> tuple[str, ...]:
        """Names of the IDs of an item: one per modality, or a single one."""
        return self.modalities if self.representation == "modality" else (self.representation,)

    @property
    def uses_graph(self) -> bool:
        """Whether users and items get representations learnt on the graph of the training interactions."""
        return self.representation == "graph" or self.encoder_input == "graph"

    @property
    def uses_pseudo_labels(self) -> bool:
        return (self.joins_modalities and self.con_positives == "pseudo_label"
                and self.lambda_con > 0 and len(self.con_layers) > 0)

    def identity(self) -> dict[str, Any]:
        """Options that determine learnt IDs, as plain JSON values: all except their source and the name of the preset."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        excluded = {"semantic_ids", "rqvae_preset", "encoder_input"}
        excluded |= set() if self.uses_graph else set(GRAPH)
        excluded |= set() if self.sinkhorn_epsilon else {"sinkhorn_epsilon"}
        excluded |= {"representation"} if self.representation == "modality" else set()
        return {name: value for name, value in values.items() if name not in excluded}

    def _check_representation(self) -> None:
        if self.joins_modalities and self.representation != "modality":
            others = [name for name, quantizer in QUANTIZERS.items() if not quantizer.joins_modalities]
            raise UserError(f"quantizer = {self.quantizer} learns an ID for each modality, but representation = "
                            f"{self.representation} gives one ID; set quantizer to {' or '.join(others)}.")
        if self.uses_graph and len(self.graph_dropout) != len(self.graph_sizes) - 1:
            raise UserError(f"graph_dropout = {list(self.graph_dropout)}: expected a number for each of the "
                            f"{len(self.graph_sizes) - 1} layers of graph_sizes = {list(self.graph_sizes)}.")
        if self.uses_graph and (len(self.graph_sizes) < 2 or self.graph_sizes[0] % 2):
            raise UserError(f"graph_sizes = {list(self.graph_sizes)}: expected an even input width and a width for each layer.")
        if self.trains_jointly and self.quantizer != "rqvae":
            raise UserError(f"graph_training = joint trains an RQ-VAE, but quantizer = {self.quantizer}; set quantizer to "
                            "rqvae, or graph_training to staged.")

    @property
    def trains_in_processes(self) -> bool:
        """Whether several processes can learn the IDs together; otherwise the first one learns them."""
        return QUANTIZERS[self.quantizer].trains_in_processes and not self.uses_graph and not self.sinkhorn_epsilon

    @property
    def joins_modalities(self) -> bool:
        """Whether the IDs of two or more modalities are learnt together."""
        return QUANTIZERS[self.quantizer].joins_modalities

    @property
    def trains_jointly(self) -> bool:
        return self.representation == "graph" and self.graph_training == "joint"

    @classmethod
    def from_identity(cls, identity: dict[str, Any]) -> "SemanticIDSettings":
        """Create and check the settings from an :meth:`identity`."""
        return cls.from_config(defaultdict(lambda: None, identity), identity["modalities"])

    def _check_con_layers(self) -> None:
        if self.joins_modalities and max(self.con_layers, default=0) >= self.codebook_levels:
            raise UserError(
                f"con_layers = {list(self.con_layers)}: layers are counted from 0 and codebook_levels = "
                f"{self.codebook_levels}; expected layers up to {self.codebook_levels - 1}."
            )


def _preset(name: str | None) -> dict[str, Any]:
    if name is None:
        return {}
    if name not in PRESETS:
        raise UserError(f"rqvae_preset = {name!r}: expected one of {list(PRESETS)}.{nearest(str(name), PRESETS)}")
    return {option: preset.value for option, preset in PRESETS[name].items()}


def _checked(name: str, value: Any) -> Any:
    """Return ``value`` converted to the type of option ``name``; raises a UserError for an invalid value."""
    expected = None
    if name in CHOICES and value not in CHOICES[name]:
        expected = f"one of {list(CHOICES[name])}"
        raise UserError(f"{name} = {value!r}: expected {expected}.{nearest(str(value), CHOICES[name])}")
    if name in FLAGS and not isinstance(value, bool):
        expected = "True or False"
    elif name in SMALLEST_INT and not _is_int(value, SMALLEST_INT[name]):
        expected = f"a whole number, at least {SMALLEST_INT[name]}"
    elif name in INT_TUPLES:
        if isinstance(value, (list, tuple, range)) and all(_is_int(v, INT_TUPLES[name]) for v in value):
            return tuple(value)
        expected = f"a list of whole numbers, each at least {INT_TUPLES[name]}"
    elif name == "graph_dropout":
        shares = [_number(v) for v in value] if isinstance(value, (list, tuple)) else [None]
        if all(share is not None and 0 <= share < 1 for share in shares):
            return tuple(shares)
        expected = "a list of numbers from 0 to below 1"
    elif name in POSITIVE + NOT_NEGATIVE:
        number = _number(value)
        if number is not None and (number > 0 or (number == 0 and name in NOT_NEGATIVE)):
            return number
        expected = "a number above 0" if name in POSITIVE else "a number, 0 or above"
    if expected:
        raise UserError(f"{name} = {value!r}: expected {expected}.")
    return value


def _is_int(value: Any, smallest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= smallest


def _number(value: Any) -> float | None:
    """``value`` as a finite float (YAML reads 1e-3 as a string), or None."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if abs(number) != float("inf") and number == number else None
