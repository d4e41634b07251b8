"""The custom resource as models: what a WorkLease asks for, and what its status may say.

This module owns the shape of the resource on this side of the wire. It mirrors ``crds/workleases.yaml``: what these
models accept the API server accepts, and the other way about; a property test holds the two together. Dicts from Kopf
and Kubernetes stop here.

It must not decide anything about a lease, and it must not talk to anyone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
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
    StrictBool,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import InitErrorDetails, PydanticCustomError

from worklease.api.names import ENVIRONMENT_LABEL, WORK_LABEL
from worklease.rules.situation import DeletionPolicy, OnFailure, Policy

LONGEST_HEARTBEAT: Final = 1024
"""Characters of ``status.lastHeartbeat``: thirty times the values seen. It is opaque, so it is never cut to fit."""

LONGEST_MESSAGE: Final = 4096
"""Characters of a condition's message: some sentences. What is longer is cut, for a message is for people."""

LONGEST_SANDBOX_MESSAGE: Final = 1024
"""As ``LONGEST_MESSAGE``, for a pod's: there may be twenty of them in one status."""

MOST_SANDBOXES: Final = 20
"""Pods that a status remembers: the current one and enough earlier ones to see a pattern."""

LARGEST_INTEGER: Final = 2**53 - 1
"""The largest integer that every JSON reader agrees on."""

A_DAY: Final = 86_400
"""Seconds. No lease and no deadline of a sandbox is longer: what takes a day to start or to finish has failed."""

A_YEAR: Final = 31_536_000
"""Seconds. What should be kept for longer has no ``ttlSecondsAfterFinished``."""


class InvalidResource(ValueError):
    """A resource that the operator cannot act on: which one, which field, and what is wrong with it."""

    def __init__(self, subject: str, problem: str) -> None:
        self.subject = subject
        self.problem = problem
        super().__init__(f"{subject} is invalid: {problem}")


def _integral(value: object) -> object:
    """Read 30.0 as 30: JSON does not tell them apart, and neither does the API server."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _in_utc(value: datetime) -> datetime:
    """Move a time to UTC, which is how the operator writes it."""
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise PydanticCustomError("time_range", "Input should be a time of the years 1 to 9999 in UTC") from error


def _without_nulls(value: object) -> object:
    """Drop a map's nulls, as the API server does before it looks at the values."""
    return {key: member for key, member in value.items() if member is not None} if isinstance(value, dict) else value


def _at_most(longest: int) -> BeforeValidator:
    """Cut a text for people to ``longest`` characters, so that its length never costs the whole status."""

    def shorten(value: object) -> object:
        return f"{value[: longest - 1]}…" if isinstance(value, str) and len(value) > longest else value

    return BeforeValidator(shorten)


_INTEGRAL: Final = BeforeValidator(_integral)  # stands last in an integer's annotation, so that it comes first
_NO_NULLS: Final = BeforeValidator(_without_nulls)
Time = Annotated[AwareDatetime, AfterValidator(_in_utc)]
Identifier = Annotated[
    str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?$")
]
"""An id of the remote API that is also valid as the value of a label."""


class HeartbeatMode(StrEnum):
    """Who sends the heartbeats: the operator, or nobody."""

    OPERATOR = "Operator"
    SUSPENDED = "Suspended"


class ConditionStatus(StrEnum):
    """Whether a condition is so; unknown where the operator cannot tell."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class _Object(BaseModel):
    """An object of the resource: camelCase on the wire, and immutable once read."""

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
        """Drop the nulls of known fields before defaulting, as the API server does."""
        if not isinstance(value, Mapping):
            return value
        known = _aliases(cls)
        return {key: member for key, member in value.items() if member is not None or key not in known}

    @classmethod
    def from_wire(cls, value: object) -> Self:
        """Read what the API server gave: field names as on the wire only.

        Raises:
            ValidationError: The value is not one that the API server accepts.
        """
        return cls.model_validate(value, by_alias=True, by_name=False)


class _Closed(_Object):
    """Part of a spec: an unknown field is a mistake of its author, who hears of it."""

    model_config = ConfigDict(extra="forbid")


class _Open(_Object):
    """Part of a pod: an unknown field is the pod's own matter."""

    model_config = ConfigDict(extra="allow")


class _StatusPart(_Object):
    """Part of a status: a field that a newer operator wrote does no harm."""

    model_config = ConfigDict(extra="ignore")


@cache
def _aliases(model: type[_Object]) -> frozenset[str | None]:
    """Give the names of a model's fields on the wire."""
    return frozenset(field.alias for field in model.model_fields.values())


def _misfit(model: _Object, location: tuple[str, ...], problem: str) -> ValidationError:
    """Say that a field does not fit its neighbours, at that field."""
    error = InitErrorDetails(type=PydanticCustomError("misfit", problem), loc=location, input=None)
    return ValidationError.from_exception_data(type(model).__name__, [error])


Part = TypeVar("Part", bound=_Object)

_PARTS: Final[WeakValueDictionary[str, Any]] = WeakValueDictionary()


def _the_one(part: Part) -> Part:
    """Give the one object for all parts that say the same: thousands of resources may share a template."""
    one: Part = _PARTS.setdefault(repr(part), part)
    return one


class CredentialsSecretRef(_Closed):
    """The Secret that the operator authenticates with."""

    name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=253,
            pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
        ),
    ]


class HeartbeatSpec(_Closed):
    """Who sends the heartbeats."""

    mode: HeartbeatMode = HeartbeatMode.OPERATOR


class PodContainer(_Open):
    """The part of a container that the resource vouches for."""

    name: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    image: Annotated[str, Field(min_length=1, max_length=4096)]


class PodSpec(_Open):
    """The part of a pod's specification that the resource vouches for; the API server knows the rest."""

    containers: Annotated[list[PodContainer], Field(min_length=1, max_length=64)]


LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$")]
AnnotationValue = Annotated[str, Field(max_length=65_536)]


class PodMetadata(_Closed):
    """What a template may say of its pod's metadata: the rest is the operator's."""

    labels: Annotated[dict[str, LabelValue], Field(max_length=64), _NO_NULLS] | None = None
    annotations: Annotated[dict[str, AnnotationValue], Field(max_length=64), _NO_NULLS] | None = None


class PodTemplate(_Closed):
    """The shape of ``spec.sandbox.template``, which is checked by it and kept as it is."""

    metadata: PodMetadata | None = None
    spec: PodSpec


def _a_pod_template(value: dict[str, Any]) -> dict[str, Any]:
    PodTemplate.from_wire(value)
    return value


class SandboxSpec(_Closed):
    """What is asked of the pod that works on the item."""

    template: Annotated[dict[str, Any], AfterValidator(_a_pod_template)] | None = None
    start_deadline_seconds: Annotated[int, Field(strict=True, ge=1, le=A_DAY), _INTEGRAL] = 600
    drain_seconds: Annotated[int, Field(strict=True, ge=0, le=A_DAY), _INTEGRAL] = 30
    on_failure: OnFailure = OnFailure.STOP
    max_restarts: Annotated[int, Field(strict=True, ge=1, le=1000), _INTEGRAL] = 3
    keep_failed_pod: StrictBool = False

    def policy(self) -> Policy:
        """What this asks of the sandbox, as decisions go by it."""
        return Policy(
            is_made=self.template is not None,
            start_deadline=float(self.start_deadline_seconds),
            drain=float(self.drain_seconds),
            on_failure=self.on_failure,
            max_restarts=self.max_restarts,
            keeps_failed=self.keep_failed_pod,
        )

    def template_labels(self) -> Mapping[str, str]:
        """The labels that the template gives its pod."""
        metadata = (self.template or {}).get("metadata") or {}
        return {key: value for key, value in (metadata.get("labels") or {}).items() if value is not None}


class WorkLeaseSpec(_Closed):
    """Which work item's lease to keep, and how."""

    environment_id: Annotated[Identifier, Field(alias="environmentID")]
    work_id: Annotated[Identifier, Field(alias="workID")]
    ttl_seconds: Annotated[int, Field(strict=True, ge=1, le=A_DAY), _INTEGRAL] | None = None
    credentials_secret_ref: CredentialsSecretRef | None = None
    heartbeat: Annotated[HeartbeatSpec, AfterValidator(_the_one)] = Field(
        default=HeartbeatSpec(), validate_default=True
    )
    sandbox: Annotated[SandboxSpec, AfterValidator(_the_one)] | None = None
    deletion_policy: DeletionPolicy = DeletionPolicy.STOP
    ttl_seconds_after_finished: Annotated[int, Field(strict=True, ge=0, le=A_YEAR), _INTEGRAL] | None = None

    def policy(self) -> Policy | None:
        """What this asks of the sandbox, if it asks for one."""
        return self.sandbox.policy() if self.sandbox is not None else None

    @model_validator(mode="after")
    def _labels_are_of_this_item(self) -> Self:
        labels = self.sandbox.template_labels() if self.sandbox else {}
        for label, expected in ((WORK_LABEL, self.work_id), (ENVIRONMENT_LABEL, self.environment_id)):
            if labels.get(label, expected) != expected:
                location = ("sandbox", "template", "metadata", "labels", label)
                raise _misfit(self, location, "contradicts the spec: leave the label out, the operator sets it")
        return self


class SandboxStatus(_StatusPart):
    """A sandbox pod and what became of it."""

    pod_uid: Annotated[str, Field(alias="podUID", min_length=1, max_length=128)]
    pod_name: Annotated[str, Field(max_length=253)] | None = None
    phase: Annotated[str, Field(max_length=64), _at_most(64)] | None = None
    reason: Annotated[str, Field(max_length=256), _at_most(256)] | None = None
    message: Annotated[str, Field(max_length=LONGEST_SANDBOX_MESSAGE), _at_most(LONGEST_SANDBOX_MESSAGE)] | None = None
    # Signed where the kubelet says so, unsigned as Windows counts them.
    exit_code: Annotated[int, Field(strict=True, ge=-(2**31), le=2**32 - 1), _INTEGRAL] | None = None
    finish_time: Time | None = None


class StatusCondition(_StatusPart):
    """One aspect of the lease or its sandbox, as the Kubernetes API conventions shape it."""

    type: Annotated[
        str,
        Field(
            min_length=1,
            max_length=316,
            pattern=(
                r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?"
                r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
            ),
        ),
    ]
    status: ConditionStatus
    reason: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Z][A-Za-z0-9]*$")]
    message: Annotated[str, Field(max_length=LONGEST_MESSAGE), _at_most(LONGEST_MESSAGE)]
    last_transition_time: Time
    observed_generation: Annotated[int, Field(strict=True, ge=0, le=LARGEST_INTEGER), _INTEGRAL] | None = None


def _the_latest_pods(value: object) -> object:
    """Forget the earliest pods beyond what a status remembers; the current one comes first."""
    return value[:MOST_SANDBOXES] if isinstance(value, list | tuple) else value


def _each_pod_once(sandboxes: tuple[SandboxStatus, ...]) -> tuple[SandboxStatus, ...]:
    if len({sandbox.pod_uid for sandbox in sandboxes}) < len(sandboxes):
        raise PydanticCustomError("duplicate", "Input should list each podUID once")
    return sandboxes


def _each_type_once(conditions: tuple[StatusCondition, ...]) -> tuple[StatusCondition, ...]:
    if len({condition.type for condition in conditions}) < len(conditions):
        raise PydanticCustomError("duplicate", "Input should list each type of condition once")
    return conditions


class WorkLeaseStatus(_StatusPart):
    """What the operator last saw, for people; and the fallback of a restart whose checkpoint is gone."""

    last_heartbeat: Annotated[str, Field(max_length=LONGEST_HEARTBEAT)] | None = None
    # Not an enum: a state that is newer than this operator is shown, not rejected.
    state: Annotated[str, Field(max_length=256), _at_most(256)] | None = None
    lease_extended: StrictBool | None = None
    ttl_seconds: Annotated[int, Field(strict=True, ge=0, le=LARGEST_INTEGER), _INTEGRAL] | None = None
    observed_time: Time | None = None
    lease_expiry_time: Time | None = None
    claim_time: Time | None = None
    sandboxes: Annotated[
        tuple[SandboxStatus, ...],
        Field(max_length=MOST_SANDBOXES),
        BeforeValidator(_the_latest_pods),
        AfterValidator(_each_pod_once),
    ] = ()
    restarts: Annotated[int, Field(strict=True, ge=0, le=2**31 - 1), _INTEGRAL] | None = None
    conditions: Annotated[tuple[StatusCondition, ...], Field(max_length=16), AfterValidator(_each_type_once)] = ()
    observed_generation: Annotated[int, Field(strict=True, ge=0, le=LARGEST_INTEGER), _INTEGRAL] | None = None

    def as_merge_patch(self) -> dict[str, Any]:
        """The status as a JSON merge patch's ``status``: what this one does not say is taken away."""
        said = self.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        absent: dict[str, Any] = {field.alias or name: None for name, field in type(self).model_fields.items()}
        return absent | said


class _Metadata(_StatusPart):
    """The metadata that the operator goes by."""

    name: str
    namespace: str
    uid: str
    generation: int
    creation_timestamp: Time
    deletion_timestamp: Time | None = None
    finalizers: tuple[str, ...] = ()


_PLAIN: Final = {
    "extra_forbidden": "is not a field of the resource",
    "missing": "is required",
    "model_type": "Input should be an object",
    "dict_type": "Input should be an object",
    "list_type": "Input should be a list",
    "tuple_type": "Input should be a list",
}
"""What pydantic says of an input, said of a resource."""


def _path(root: str, location: tuple[str | int, ...]) -> str:
    """Name a field as Kubernetes does: ``spec.containers[0].name``, ``metadata.labels[worklease.dev/work-id]``."""
    return root + "".join(f".{part}" if str(part).isalpha() else f"[{part}]" for part in location)


def _in_one_line(root: str, error: ValidationError) -> str:
    """Say what is wrong with which fields, without the values: they may be what nobody should read."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(
        f"{_path(root, problem['loc'])}: {_PLAIN.get(problem['type'], problem['msg'])}" for problem in problems
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkLease:
    """A whole resource, as far as the operator needs it.

    ``status_problem`` says why a status that is there could not be read; it then counts as empty.
    """

    name: str
    namespace: str
    uid: str
    generation: int
    creation_timestamp: datetime
    deletion_timestamp: datetime | None
    finalizers: tuple[str, ...]
    spec: WorkLeaseSpec
    status: WorkLeaseStatus
    status_problem: str | None = None

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Self:
        """Read a resource as the API server gave it.

        Raises:
            InvalidResource: Its spec or metadata are not such as the API server accepts. Its status never raises.
        """
        named = body.get("metadata") or {}
        subject = f"WorkLease {named.get('namespace')}/{named.get('name')}"
        try:
            metadata = _Metadata.from_wire(named)
        except ValidationError as error:
            raise InvalidResource(subject, _in_one_line("metadata", error)) from error
        try:
            spec = WorkLeaseSpec.from_wire(body.get("spec"))
        except ValidationError as error:
            raise InvalidResource(subject, _in_one_line("spec", error)) from error
        status, status_problem = _read_status(body.get("status"))
        return cls(**dict(metadata), spec=spec, status=status, status_problem=status_problem)


def _read_status(raw: object) -> tuple[WorkLeaseStatus, str | None]:
    """Read a status leniently: one that cannot be read counts as empty, and the second value says why."""
    try:
        return WorkLeaseStatus.from_wire({} if raw is None else raw), None
    except ValidationError as error:
        return WorkLeaseStatus(), _in_one_line("status", error)
