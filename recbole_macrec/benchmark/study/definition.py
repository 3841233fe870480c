"""Schema of the YAML files of studies."""
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import model_validator

from recbole_macrec.config.schema.base import Count, Described, Number, OneOf, Options, Positive, Text
from recbole_macrec.errors import UserError

REQUIRED = {  # kind -> keys that a study of this kind needs
    "code_distribution": ("layer", "bucket"), "sweeps": ("sweeps",), "beams": ("beams",), "rankings": ("rankings",),
    "groups": ("by", "bounds"),
}  # fmt: skip

Names = Annotated[list[Text], Described("a list of names")]
Settings = dict[Text, Any]  # option -> value
ByName = Annotated[dict[Text, Settings], Described("a dictionary of dictionaries")]
Figures = Annotated[dict[Text, dict[Text, dict[Text, Number]]], Described("figures by dataset, row and metric")]


class StudyDefinition(Options):
    """A file of ``properties/study/``, or of the user.

    The rows of the table are ``models``, ``variants``, or the values of ``sweeps``.

    Attributes:
        kind: determines the table and the figures; a key of ``KINDS``.
        model: of the ``variants`` without a model of their own, and of the ``sweeps``.
        models: names of models.
        variants: row -> its options, with ``model``.
        sweeps: option -> its values.
        settings: options of all rows.
        by, bounds: of kind ``groups``: how test rows are grouped, and the lower bound of each group.
        layer, bucket: of kind ``code_distribution``: the layer, counted from 0, and the number of codes counted together.
        beams: of kind ``beams``: numbers of beams.
        rankings: of kind ``rankings``: name -> options of the ranking.
        published: dataset -> row -> metric -> published figure.
        metrics: of kind ``published``: metrics of the table, in lower case; None: those with published figures.
        fusions: rows to fuse when all rows are finished or have failed.
        pairs: rows to test against each other, apart from pairs with a row that is not run; None: the first row against each
            other one, or with ``models`` the best row against each other one.
        impossible: dataset -> row -> metrics whose published figures no data can produce.
        rows: row of a published table -> ``study`` that runs it, ``options`` of the command, and its ``cost``.
    """

    title: Text
    kind: Annotated[Text, OneOf("study_kind")]
    model: Text | None = None
    models: Names = []
    variants: ByName = {}
    sweeps: Annotated[dict[Text, list], Described("a dictionary of lists")] = {}
    settings: Settings = {}
    by: Literal["target_count", "history_length"] = "target_count"
    bounds: Annotated[list[Count], Described("a list of whole numbers >= 0")] = []
    layer: Count = 0
    bucket: Positive = 1
    beams: Annotated[list[Positive], Described("a list of whole numbers >= 1")] = []
    rankings: ByName = {}
    published: Figures = {}
    metrics: Names | None = None
    fusions: Annotated[list[list[Text]], Described("a list of lists of rows")] = []
    pairs: Annotated[list[tuple[Text, Text]], Described("a list of lists of two rows")] | None = None
    impossible: dict[Text, dict[Text, list[Text]]] = {}
    rows: dict[Text, dict[Text, Text]] = {}

    @model_validator(mode="after")
    def _check_required(self) -> "StudyDefinition":
        for key in REQUIRED.get(self.kind, ()):
            if key not in self.model_fields_set or getattr(self, key) in ([], {}):
                raise UserError(f"'{key}' is missing, which a study of kind {self.kind} needs.")
        if any(low >= high for low, high in pairwise(self.bounds)):
            raise UserError(f"bounds is {self.bounds}; expected ascending numbers.")
        return self
