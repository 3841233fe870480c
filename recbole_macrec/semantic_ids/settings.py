"""Settings of the semantic IDs, read from a RecBole configuration."""
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from recbole_macrec.config.schema.base import REGISTRIES, Seed
from recbole_macrec.config.schema.semantic_ids import SemanticIDOptions
from recbole_macrec.data.id_files import tokenization_name
from recbole_macrec.errors import UserError
from recbole_macrec.semantic_ids.presets import PRESETS

if TYPE_CHECKING:  # the quantizers import the settings
    from recbole_macrec.semantic_ids.quantizers.base import Quantizer

DEFAULT_LEVELS = SemanticIDOptions.model_fields["codebook_levels"].default
GRAPH = ("graph_sizes", "graph_dropout", "graph_epochs", "graph_batch_size", "graph_learning_rate", "graph_weight_decay",
         "graph_negatives", "graph_training")


class SemanticIDSettings(SemanticIDOptions):
    """Options of the semantic IDs of ``modalities``.

    Raises:
        UserError: a value is of the wrong type or out of range, or options contradict each other.
    """

    modalities: tuple[str, ...]
    semantic_id_seed: Seed = 2020

    def __init__(self, modalities: Sequence[str], **options: Any) -> None:
        super().__init__(**{"modalities": tuple(modalities), **options})

    @classmethod
    def from_config(cls, config: Any, modalities: Sequence[str]) -> "SemanticIDSettings":
        """Read the options from ``config[name]``. Options that are not set (None) come from the preset, then the defaults.

        The default ``quantizer`` is cross_modal_rqvae for two or more modalities with separate IDs, and rqvae for one ID. The
        default ``semantic_id_seed`` is ``config["seed"]``.

        Raises:
            UserError: a value is of the wrong type or out of range.
        """
        several = len(modalities) > 1 and config["representation"] in (None, "modality")
        values: dict[str, Any] = {"quantizer": "cross_modal_rqvae" if several else "rqvae"}
        if config["seed"] is not None:
            values["semantic_id_seed"] = config["seed"]
        own = {name: config[name] for name in SemanticIDOptions.model_fields if config[name] is not None}
        checked = SemanticIDOptions(**own)  # before the preset's layers are looked up in codebook_levels
        if checked.rqvae_preset is not None:
            values |= {option: preset.value for option, preset in PRESETS[checked.rqvae_preset].items()}
        values |= own
        if isinstance(layers := values.get("con_layers"), slice):
            joins = REGISTRIES["quantizer"][values["quantizer"]].joins_modalities
            levels = checked.codebook_levels if joins else DEFAULT_LEVELS
            values["con_layers"] = tuple(range(levels)[layers])
        return cls(modalities, **values)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], modalities: Sequence[str]) -> "SemanticIDSettings":
        """Like :meth:`from_config`, from a dictionary of the options that are set."""
        return cls.from_config(defaultdict(lambda: None, options), modalities)

    def replace(self, **changes: Any) -> "SemanticIDSettings":
        """Return settings with ``changes``, which are checked."""
        return type(self)(**{**dict(self), **changes})

    @property
    def ids(self) -> tuple[str, ...]:
        """Names of the IDs of an item: one per modality, or a single one."""
        return self.modalities if self.representation == "modality" else (self.representation,)

    @property
    def id_names(self) -> tuple[str, ...]:
        """:attr:`ids` in every tokenization, the tokenizations of a modality one after the other."""
        return tuple(tokenization_name(name, number) for name in self.ids for number in range(self.tokenizations))

    @property
    def uses_graph(self) -> bool:
        """Whether users and items get representations learnt on the graph of the training interactions."""
        return self.representation == "graph" or self.encoder_input == "graph"

    @property
    def _quantizer_class(self) -> "type[Quantizer]":
        return REGISTRIES["quantizer"][self.quantizer]

    @property
    def reads_interactions(self) -> bool:
        """Whether the quantizer reads the training interactions and no features."""
        return self._quantizer_class.reads_interactions

    @property
    def read_modalities(self) -> tuple[str, ...]:
        """Modalities whose features are read to learn the IDs; none if the quantizer reads the training interactions."""
        return () if self.reads_interactions else self.modalities

    @property
    def auxiliary_features(self) -> tuple[str, ...]:
        """Names of the features that the quantizer needs besides those of the modalities."""
        return self._quantizer_class.auxiliary_features

    @property
    def uses_pseudo_labels(self) -> bool:
        return (self.joins_modalities and self.con_positives == "pseudo_label"
                and self.lambda_con > 0 and len(self.con_layers) > 0)

    def identity(self) -> dict[str, Any]:
        """Options that determine learnt IDs, as plain JSON values: all except their source, the name of the preset
        and the number of tokenizations."""
        values = {"modalities": self.modalities, **dict(self)}  # in this order, which the hash of a bundle depends on
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        left_out = {"semantic_ids", "rqvae_preset", "encoder_input", "tokenizations"}
        if not self.uses_graph:  # options without effect
            left_out |= set(GRAPH)
        if self.quantizer != "letter":
            left_out |= {"lambda_cf", "lambda_div", "cf_epochs"}
        if self.quantizer != "cid":
            left_out |= {"cid_clusters", "cid_leaf_size"}
        newer = {"sinkhorn_epsilon": 0, "loss_reduction": "mean", "rqvae_precision": "auto", "con_denominator": "others",
                 "representation": "modality"}  # with these values the IDs are those of versions without the option
        left_out |= {name for name, value in newer.items() if getattr(self, name) == value}
        return {name: value for name, value in values.items() if name not in left_out}

    @property
    def trains_in_processes(self) -> bool:
        """Whether several processes can learn the IDs together; otherwise the first one learns them."""
        return self._quantizer_class.trains_in_processes and not self.uses_graph and not self.sinkhorn_epsilon

    @property
    def joins_modalities(self) -> bool:
        """Whether the IDs of two or more modalities are learnt together."""
        return self._quantizer_class.joins_modalities

    @property
    def trains_jointly(self) -> bool:
        return self.representation == "graph" and self.graph_training == "joint"

    @classmethod
    def from_identity(cls, identity: dict[str, Any]) -> "SemanticIDSettings":
        """Create and check the settings from an :meth:`identity`."""
        return cls.from_options(identity, identity["modalities"])

    @model_validator(mode="after")
    def _check_together(self) -> "SemanticIDSettings":
        """Check options that depend on each other."""
        if not self.modalities or len(set(self.modalities)) != len(self.modalities):
            raise UserError(f"modalities is {list(self.modalities)}; expected at least one name, without duplicates.")
        if self.joins_modalities and max(self.con_layers, default=0) >= self.codebook_levels:
            raise UserError(f"con_layers is {list(self.con_layers)}; expected layers from 0 to {self.codebook_levels - 1}, as "
                            f"codebook_levels is {self.codebook_levels}.")
        if self.joins_modalities and self.representation != "modality":
            others = [name for name, quantizer in REGISTRIES["quantizer"].items() if not quantizer.joins_modalities]
            raise UserError(f"quantizer is {self.quantizer}, which learns an ID for each modality, but representation is "
                            f"{self.representation}, which gives one ID; set quantizer to {' or '.join(others)}.")
        if self.uses_graph and len(self.graph_dropout) != len(self.graph_sizes) - 1:
            raise UserError(f"graph_dropout is {list(self.graph_dropout)}; expected a number for each of the "
                            f"{len(self.graph_sizes) - 1} layers of graph_sizes, which is {list(self.graph_sizes)}.")
        if self.uses_graph and (len(self.graph_sizes) < 2 or self.graph_sizes[0] % 2):
            raise UserError(
                f"graph_sizes is {list(self.graph_sizes)}; expected an even input width and a width for each layer."
            )
        if self.trains_jointly and self.quantizer != "rqvae":
            raise UserError(
                f"graph_training is joint, which trains an RQ-VAE, but quantizer is {self.quantizer}; set quantizer to "
                "rqvae, or graph_training to staged."
            )
        if self.graph_training == "joint" and self.encoder_input == "graph" and self.representation != "graph":
            raise UserError(
                "graph_training is joint, which trains the graph with the quantizer of its representations, but "
                f"representation is {self.representation}; set representation to graph, or graph_training to staged."
            )
        if self.reads_interactions and self.tokenizations > 1 and self.semantic_ids != "published":
            raise UserError(f"tokenizations is {self.tokenizations}, but IDs of quantizer {self.quantizer} can have another "
                            "length with each seed; set tokenizations to 1, or choose another quantizer.")
        if REGISTRIES["collision"][self.collision].needs_codewords and not self._quantizer_class.shares_codewords:
            raise UserError(f"collision is {self.collision}, which needs codewords, but quantizer is {self.quantizer}, "
                            "which has none; set collision to reassign, extra_token or popularity, or change quantizer.")
        if self.reads_interactions and self.encoder_input == "graph":
            raise UserError(f"quantizer is {self.quantizer}, which learns no graph, but encoder_input is graph; set "
                            "encoder_input to learnt, or choose another quantizer.")
        return self
