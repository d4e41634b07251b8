"""How the fields of the custom resource are read: base classes, types of fields, and the words for errors.

Owns what holds for every part of the resource: names on the wire, nulls, unknown fields, times and integers. Must not
know which fields there are.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, Final, Self, TypeVar
from weakref import WeakValueDictionary

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import InitErrorDetails, PydanticCustomError

# --- Types of fields -------------------------------------------------------------------------------------------------


def _integral(value: object) -> object:
    """Read 30.0 as 30: JSON does not tell them apart, and neither does the API server. It refuses -0.0."""
    return int(value) if isinstance(value, float) and value.is_integer() and str(value) != "-0.0" else value


def _in_utc(value: datetime) -> datetime:
    """Convert a time to UTC: the operator writes all times in it."""
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise PydanticCustomError("time_range", "Input should be a time of the years 1 to 9999 in UTC") from error


def _without_nulls(value: object) -> object:
    """Drop a map's nulls, as the API server does before it checks the values."""
    return {key: member for key, member in value.items() if member is not None} if isinstance(value, dict) else value


def at_most(longest: int) -> BeforeValidator:
    """Cut a text for people to ``longest`` characters, so that its length never costs the whole status."""

    def shorten(value: object) -> object:
        return f"{value[: longest - 1]}…" if isinstance(value, str) and len(value) > longest else value

    return BeforeValidator(shorten)


INTEGRAL: Final = BeforeValidator(_integral)  # comes last in an integer's annotation, so that it runs first
NO_NULLS: Final = BeforeValidator(_without_nulls)
Time = Annotated[AwareDatetime, AfterValidator(_in_utc)]
Identifier = Annotated[
    str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?$")
]
"""An id of the Work API that is also valid as the value of a label."""


# --- Base classes ----------------------------------------------------------------------------------------------------


class ResourcePart(BaseModel):
    """A part of the resource: camelCase on the wire, and immutable once read."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        frozen=True,
        hide_input_in_errors=True,
        serialize_by_alias=True,
        validate_by_alias=True,
        validate_by_name=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: object) -> object:
        """Drop the nulls of known fields before the defaults are set, as the API server does."""
        if not isinstance(value, Mapping):
            return value
        known = _aliases(cls)
        return {key: member for key, member in value.items() if member is not None or key not in known}

    @classmethod
    def from_wire(cls, value: object) -> Self:
        """Read a value of the API server's: field names as on the wire only.

        Raises:
            ValidationError: The API server would not accept the value.
        """
        return cls.model_validate(value, by_alias=True, by_name=False)


class SpecPart(ResourcePart):
    """Part of a spec: an unknown field is its author's mistake, and is reported."""

    model_config = ConfigDict(extra="forbid")


class PodPart(ResourcePart):
    """Part of a pod: the API server checks the fields that are unknown here."""

    model_config = ConfigDict(extra="allow")


class StatusPart(ResourcePart):
    """Part of a status: an unknown field is from a newer operator, and does no harm."""

    model_config = ConfigDict(extra="ignore")


@cache
def _aliases(model: type[ResourcePart]) -> frozenset[str | None]:
    """Return the names of a model's fields on the wire."""
    return frozenset(field.alias for field in model.model_fields.values())


Part = TypeVar("Part", bound=ResourcePart)

_PARTS: Final[WeakValueDictionary[str, Any]] = WeakValueDictionary()


def shared(part: Part) -> Part:
    """Return one object for all equal parts: thousands of resources may have the same template."""
    one: Part = _PARTS.setdefault(repr(part), part)
    return one


# --- Errors ----------------------------------------------------------------------------------------------------------


def misfit(model: ResourcePart, location: tuple[str, ...], problem: str) -> ValidationError:
    """Return the error of a field that contradicts other fields, located at that field."""
    error = InitErrorDetails(type=PydanticCustomError("misfit", problem), loc=location, input=None)
    return ValidationError.from_exception_data(type(model).__name__, [error])


_PLAIN: Final = {
    "extra_forbidden": "is not a field of the resource",
    "missing": "is required",
    "model_type": "Input should be an object",
    "dict_type": "Input should be an object",
    "list_type": "Input should be a list",
    "tuple_type": "Input should be a list",
}
"""What to say in place of pydantic's words about Python, by the type of the error."""


def in_one_line(root: str, error: ValidationError) -> str:
    """Return which fields are wrong and why, without their values: a value may be secret."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(
        f"{_path(root, problem['loc'])}: {_PLAIN.get(problem['type'], problem['msg'])}" for problem in problems
    )


def _path(root: str, location: tuple[str | int, ...]) -> str:
    """Name a field as Kubernetes does: ``spec.containers[0].name``, ``metadata.labels[worklease.dev/work-id]``."""
    return root + "".join(f".{part}" if str(part).isalpha() else f"[{part}]" for part in location)
