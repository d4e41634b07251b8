"""The custom resource WorkPool as models.

Owns the shape of the resource on this side of the wire. It mirrors ``crds/workpools.yaml``: these models accept what
the API server accepts, and nothing else. Must not decide anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, Field, StrictBool, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from worklease.api.fields import (
    INTEGRAL,
    NO_NULLS,
    Identifier,
    SpecPart,
    StatusPart,
    Time,
    in_one_line,
    misfit,
    shared,
)
from worklease.api.models import (
    LARGEST_INTEGER,
    AnnotationValue,
    CommonLeaseSpec,
    CredentialsSecretRef,
    InvalidResource,
    LabelValue,
    ResourceMetadata,
    ResourceStatus,
)
from worklease.api.names import ENVIRONMENT_LABEL, GROUP, POOL_LABEL, SESSION_LABEL, WORK_LABEL

LONGEST_NAME: Final = 40
"""Characters of a pool's name: the names of its WorkLeases begin with it, and pods' names with theirs."""

MOST_LEASES: Final = 1000
"""``spec.maxConcurrent`` at most."""

LONGEST_PAUSE: Final = 900
"""Seconds that a breaker pauses at most: who repairs a template waits no longer for the trial that shows it."""

LARGEST_COUNT: Final = 2**31 - 1


class PoolDeletion(StrEnum):
    """What becomes of the WorkLeases of a pool that is deleted."""

    RELEASE = "Release"
    STOP = "Stop"


def _none_of_ours(value: dict[str, str]) -> dict[str, str]:
    """Refuse what the operator sets by itself."""
    if any(key.startswith(f"{GROUP}/") for key in value):
        raise PydanticCustomError("reserved", "Input should have no key of worklease.dev: the operator sets those")
    return value


class LeaseMetadata(SpecPart):
    """The metadata that a lease template may set; the pool sets the rest."""

    labels: Annotated[dict[str, LabelValue], Field(max_length=64), AfterValidator(_none_of_ours), NO_NULLS] | None = (
        None
    )
    annotations: (
        Annotated[dict[str, AnnotationValue], Field(max_length=64), AfterValidator(_none_of_ours), NO_NULLS] | None
    ) = None


class LeaseTemplate(SpecPart):
    """The WorkLease that a pool makes for each item."""

    metadata: LeaseMetadata | None = None
    spec: Annotated[CommonLeaseSpec, AfterValidator(shared)] = Field(default=CommonLeaseSpec(), validate_default=True)


class PoolLimits(SpecPart):
    """When a pool gives up an item, and when it pauses."""

    deliveries_per_session: Annotated[int, Field(strict=True, ge=1, le=1000), INTEGRAL] = 3
    failures_before_pause: Annotated[int, Field(strict=True, ge=1, le=1000), INTEGRAL] = 5
    pause_seconds: Annotated[int, Field(strict=True, ge=1, le=LONGEST_PAUSE), INTEGRAL] = 60


class WorkPoolSpec(SpecPart):
    """Which queue to take items from, and what to make of each."""

    environment_id: Annotated[Identifier, Field(alias="environmentID")]
    credentials_secret_ref: CredentialsSecretRef | None = None
    max_concurrent: Annotated[int, Field(strict=True, ge=0, le=MOST_LEASES), INTEGRAL]
    suspend: StrictBool = False
    require_token: StrictBool = True
    deletion_policy: PoolDeletion = PoolDeletion.RELEASE
    limits: Annotated[PoolLimits, AfterValidator(shared)] = Field(default=PoolLimits(), validate_default=True)
    lease_template: LeaseTemplate = Field(default=LeaseTemplate(), validate_default=True)

    @model_validator(mode="after")
    def _labels_are_of_no_item(self) -> Self:
        sandbox = self.lease_template.spec.sandbox
        labels = sandbox.template_labels() if sandbox else {}
        location = ("leaseTemplate", "spec", "sandbox", "template", "metadata", "labels")
        for label in (WORK_LABEL, SESSION_LABEL, POOL_LABEL):
            if label in labels:
                raise misfit(self, (*location, label), "is of one item: leave the label out, the operator sets it")
        if labels.get(ENVIRONMENT_LABEL, self.environment_id) != self.environment_id:
            problem = "contradicts the spec: leave the label out, the operator sets it"
            raise misfit(self, (*location, ENVIRONMENT_LABEL), problem)
        return self


_Count = Annotated[int, Field(strict=True, ge=0, le=LARGEST_COUNT), INTEGRAL]
_Number = Annotated[int, Field(strict=True, ge=0, le=LARGEST_INTEGER), INTEGRAL]


class QueueStatus(StatusPart):
    """An environment's queue, as the server last counted it."""

    depth: _Number | None = None
    pending: _Number | None = None
    oldest_queued_time: Time | None = None
    workers_polling: _Number | None = None
    observed_time: Time | None = None


class BreakerStatus(StatusPart):
    """Why a pool takes few items or none. A start reads it."""

    open_until_time: Time | None = None
    pause_seconds: Annotated[int, Field(strict=True, ge=0, le=LONGEST_PAUSE), INTEGRAL] | None = None
    failures: _Count | None = None


class WorkPoolStatus(ResourceStatus):
    """What the operator last saw of a pool: for people, for autoscalers, and its breaker for the next start."""

    active: _Count | None = None
    claiming: _Count | None = None
    starting: _Count | None = None
    running: _Count | None = None
    ending: _Count | None = None
    queue: QueueStatus | None = None
    breaker: BreakerStatus | None = None
    last_poll_time: Time | None = None
    last_item_time: Time | None = None
    selector: Annotated[str, Field(max_length=256)] | None = None

    def as_merge_patch(self) -> dict[str, Any]:
        """The status as the ``status`` of a JSON merge patch, which removes the fields that this status lacks."""
        patch = super().as_merge_patch()
        for name, part, model in (("queue", self.queue, QueueStatus), ("breaker", self.breaker, BreakerStatus)):
            if part is not None:
                absent = {field.alias: None for field in model.model_fields.values()}
                patch[name] = absent | (patch[name] or {})
        return patch


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkPool:
    """A whole pool, as far as the operator needs it; ``status_problem`` as in ``WorkLease``."""

    name: str
    namespace: str
    uid: str
    generation: int
    creation_timestamp: datetime
    deletion_timestamp: datetime | None
    finalizers: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    spec: WorkPoolSpec
    status: WorkPoolStatus
    status_problem: str | None = None

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Self:
        """Read a pool as the API server returned it.

        Raises:
            InvalidResource: The API server would not accept its spec or metadata. A status never raises.
        """
        named = body.get("metadata") or {}
        subject = f"WorkPool {named.get('namespace')}/{named.get('name')}"
        try:
            metadata = ResourceMetadata.from_wire(named)
        except ValidationError as error:
            raise InvalidResource(subject, in_one_line("metadata", error)) from error
        if len(metadata.name) > LONGEST_NAME:
            raise InvalidResource(subject, f"metadata.name: has more than {LONGEST_NAME} characters")
        try:
            spec = WorkPoolSpec.from_wire(body.get("spec"))
        except ValidationError as error:
            raise InvalidResource(subject, in_one_line("spec", error)) from error
        status, status_problem = _read_status(body.get("status"))
        return cls(**dict(metadata), spec=spec, status=status, status_problem=status_problem)


def _read_status(raw: object) -> tuple[WorkPoolStatus, str | None]:
    try:
        return WorkPoolStatus.from_wire({} if raw is None else raw), None
    except ValidationError as error:
        return WorkPoolStatus(), in_one_line("status", error)
