"""Base class of the option schema, types of options, and the message for a wrong value.

An option is declared once: type and range by its annotation, default, description and the paper's value by :func:`option`.
"""
import os
import reprlib
import types
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import core_schema

from recbole_macrec.errors import UserError, nearest

LARGEST = 2**31 - 1  # of whole numbers without a limit of their own
_SHOWN = 120  # characters of a value in a message


class OptionGroup(BaseModel):
    """Options that are entries of one option, such as ``eval_args``."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, defer_build=True)


class Options(OptionGroup):
    """A group of options, or all options of a model.

    Raises:
        UserError: a value is of the wrong type or out of range, or the option is unknown.
    """

    optional: ClassVar[frozenset[str]] = frozenset()  # options for which None means: not set

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise UserError(_message(type(self), values, error)) from None

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> "Options":
        """Check the options that are set in ``config``; other keys of ``config`` are ignored."""
        names = [name for name in cls.model_fields if name in config]
        return cls(**{name: config[name] for name in names if config[name] is not None or name not in cls.optional})


def option(default: Any, description: str, paper: Any = None) -> Any:
    """Declare an option.

    Args:
        default: the value with which the shipped models run.
        description: one line.
        paper: the value of the paper or its released code; None if unknown.
    """
    return Field(default, description=description, json_schema_extra={"paper": paper})


def paper_of(field: FieldInfo) -> Any:
    """The paper's value of an option; None if unknown."""
    return field.json_schema_extra["paper"] if isinstance(field.json_schema_extra, dict) else None


def derive(
    name: str,
    base: type[Options],
    defaults: Mapping[str, Any],
    paper: Mapping[str, Any] | None = None,
    types: Mapping[str, Any] | None = None,
) -> type[Options]:
    """The schema ``base`` with other defaults, paper's values and types.

    Args:
        paper: option -> value, in place of those of ``base``.
        types: option -> annotation, for options of which the model supports only some values.
    """
    paper, types = paper or {}, types or {}
    fields: dict[str, Any] = {}
    for key in {**defaults, **paper, **types}:
        field = base.model_fields[key]
        annotation: Any = types.get(key)
        if annotation is None:
            parameters: Any = (field.annotation, *(field.metadata or [None]))
            annotation = Annotated[parameters]
        fields[key] = (
            annotation,
            option(defaults.get(key, field.default), field.description or "", paper.get(key, paper_of(field))),
        )
    return create_model(name, __base__=base, __module__=__name__, **fields)


# -- types -------------------------------------------------------------------------------------------------------------


REGISTRIES: dict[str, Mapping[str, Any]] = {}  # option -> what its values name; filled by the packages that define it


class OneOf:
    """Annotation of a string: a key of ``REGISTRIES[option]``."""

    def __init__(self, option: str):
        self.option = option

    @property
    def names(self) -> list[str]:
        return list(REGISTRIES[self.option])

    def __get_pydantic_core_schema__(self, source, handler):
        def check(value):
            if value not in self.names:
                raise ValueError("unknown name")
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))


class Described:
    """Annotation that describes a value in messages, where its type does not."""

    def __init__(self, text: str):
        self.text = text


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _number(value: Any) -> Any:
    """Texts such as 1e-3, which YAML does not read as numbers, as numbers."""
    try:
        return float(value) if isinstance(value, str) else _plain(value)
    except ValueError:
        return value


Text = Annotated[str, Strict()]
FilePath = Annotated[
    str, BeforeValidator(lambda value: os.fspath(value) if isinstance(value, os.PathLike) else value), Strict()
]
Flag = Annotated[bool, Strict()]
Whole = Annotated[int, BeforeValidator(_plain), Strict(), Field(le=LARGEST)]
Count = Annotated[Whole, Field(ge=0)]
Positive = Annotated[Whole, Field(ge=1)]
AtLeast2 = Annotated[Whole, Field(ge=2)]
Width = Annotated[int, BeforeValidator(_plain), Strict(), Field(ge=1, le=65536)]  # of a layer
Layers = Annotated[int, BeforeValidator(_plain), Strict(), Field(ge=1, le=1024)]
Levels = Annotated[int, BeforeValidator(_plain), Strict(), Field(ge=1, le=26)]  # published IDs name levels by letters
Seed = Annotated[int, BeforeValidator(_plain), Strict(), Field(ge=0, le=2**32 - 1)]  # numpy's range
Number = Annotated[float, BeforeValidator(_number), Field(strict=True, allow_inf_nan=False)]
NotNegative = Annotated[Number, Field(ge=0)]
Above0 = Annotated[Number, Field(gt=0)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
Dropout = Annotated[Number, Field(ge=0, le=0.99)]


# -- messages ----------------------------------------------------------------------------------------------------------


def _message(schema: type[OptionGroup], values: Mapping[str, Any], error: ValidationError) -> str:
    """One sentence for the first error: the option, its value, and what is expected."""
    place = [str(part) for part in error.errors(include_url=False, include_context=False)[0]["loc"]]
    fields, path, value = schema.model_fields, place[0], values.get(place[0])
    for name in place[1:]:
        nested = _nested(fields.get(path.rpartition(".")[2]))
        if nested is None or not isinstance(value, dict) or name not in value:
            break
        fields, path, value = nested.model_fields, f"{path}.{name}", value[name]
    name = path.rpartition(".")[2]
    if name not in fields:
        hint = nearest(name, fields) or (f" Expected {', '.join(fields)}." if len(fields) < 12 else "")
        return f"Unknown option '{path}'.{hint}"
    allowed = choices(fields[name])
    hint = nearest(value[:_SHOWN], allowed) if allowed and isinstance(value, str) else ""
    words = expected(fields[name])
    most = f", at most {LARGEST}" if isinstance(value, int) and value > LARGEST and " from " not in words else ""
    return f"{path} is {shown(value)}; expected {words}{most}.{hint}"


def shown(value: Any) -> str:
    """``value`` in a message, shortened."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 400:
        return f"a number of about {round(value.bit_length() * 0.30103)} digits"
    short = reprlib.Repr()
    short.maxlevel, short.maxlist, short.maxtuple, short.maxdict = 4, 12, 12, 12
    short.maxstring = short.maxother = short.maxlong = _SHOWN
    return short.repr(value)


def as_list(value: Any) -> list:
    """A list or tuple as a list, None as an empty list, any other value as a list of itself."""
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


def expected(field: FieldInfo) -> str:
    """Type and range of an option in words, such as ``a number >= 0``."""
    return _expected(field.annotation, field.metadata)


def choices(field: FieldInfo) -> list[str]:
    """The texts that an option accepts; empty if it accepts others as well."""
    found: list[str] = []

    def visit(annotation: Any, metadata: Any) -> None:
        for one in metadata:
            found.extend(one.names if isinstance(one, OneOf) else [])
        if get_origin(annotation) is Annotated:
            inner, *more = get_args(annotation)
            visit(inner, more)
        elif get_origin(annotation) is Literal:
            found.extend(str(name) for name in get_args(annotation))
        elif get_origin(annotation) in (Union, types.UnionType):
            for one in get_args(annotation):
                visit(one, [])

    visit(field.annotation, field.metadata)
    return found


def _nested(field: FieldInfo | None) -> type[OptionGroup] | None:
    """The group of which an option is a dictionary; None for other options."""
    annotation = field.annotation if field else None
    for one in get_args(annotation) or [annotation]:
        if isinstance(one, type) and issubclass(one, OptionGroup):
            return one
    return None


def _expected(annotation: Any, metadata: Any = ()) -> str:
    while get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        metadata = [*more, *metadata]
    for one in metadata:
        if isinstance(one, Described):
            return one.text
        if isinstance(one, OneOf):
            return _alternatives(one.names)
    origin = get_origin(annotation)
    if origin is Literal:
        return _alternatives([str(name) for name in get_args(annotation)])
    if origin in (Union, types.UnionType):
        return _alternatives([word for one in get_args(annotation) for word in _words(one)])
    if origin in (tuple, list):
        return "a list of " + _expected(get_args(annotation)[0]).removeprefix("a ").replace("number", "numbers", 1)
    if annotation is dict or origin is dict:
        return "a dictionary"
    if isinstance(annotation, type) and issubclass(annotation, OptionGroup):
        return f"a dictionary with keys among {', '.join(annotation.model_fields)}"
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}
    return words.get(annotation, "another value") + _range(metadata)


def _words(annotation: Any) -> list[str]:
    """The alternatives of one type of a union."""
    inner = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if get_origin(inner) is Literal:
        return [str(name) for name in get_args(inner)]
    return ["None"] if inner is type(None) else ["True", "False"] if inner is bool else [_expected(annotation)]


def _range(metadata: Any) -> str:
    limits: dict[str, float] = {}
    for one in metadata:
        for constraint in getattr(one, "metadata", None) or [one]:  # Field(ge=0) in an annotation holds its constraints
            limits |= {
                sign: getattr(constraint, sign)
                for sign in ("ge", "gt", "le", "lt")
                if getattr(constraint, sign, None) is not None
            }
    if limits.get("le") == LARGEST:
        del limits["le"]
    if "ge" in limits and "le" in limits:
        return f" from {limits['ge']} to {limits['le']}"
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    return " and".join(f" {signs[sign]} {limit}" for sign, limit in limits.items())


def _alternatives(names: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
