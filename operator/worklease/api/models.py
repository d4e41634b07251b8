"""The custom resource as models: what a WorkLease asks for, and what its status may say.

Owns the shape of the resource on this side of the wire. It mirrors ``crds/workleases.yaml``: these models accept what
the API server accepts, and nothing else; a property test compares the two. Dicts from Kopf and Kubernetes end here.
Must not decide anything about a lease, and must not call anybody.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from worklease.api.fields import (
    INTEGRAL,
    NO_NULLS,
    Identifier,
    PodPart,
    SpecPart,
    StatusPart,
    Time,
    at_most,
    in_one_line,
    misfit,
    shared,
)
from worklease.api.names import ENVIRONMENT_LABEL, GROUP, WORK_LABEL
from worklease.rules.situation import DeletionPolicy, OnFailure, Policy

LONGEST_HEARTBEAT: Final = 1024
"""Characters of ``status.lastHeartbeat``: thirty times the values seen. It is opaque, so it is never shortened."""

LONGEST_MESSAGE: Final = 4096
"""Characters of a condition's message: some sentences. A longer one is shortened, because it is for people."""

LONGEST_SANDBOX_MESSAGE: Final = 1024
"""As ``LONGEST_MESSAGE``, for a pod's message: one status may have twenty of them."""

MOST_SANDBOXES: Final = 20
"""Pods in a status: the current one, and enough earlier ones to see a pattern."""

LONGEST_OPERATOR: Final = 128
"""Characters of ``status.operator``: a namespace, and the name of a Lease."""

LARGEST_INTEGER: Final = 2**53 - 1
"""The largest integer that every reader of JSON reads as it is."""

A_DAY: Final = 86_400
"""Seconds. No lease and no deadline of a sandbox is longer: what takes a day to start or to end has failed."""

A_WEEK: Final = 604_800
"""Seconds: a session that goes on after a week is rare, and a volume costs as long as it is there."""

A_YEAR: Final = 31_536_000
"""Seconds. A resource that should be kept for longer has no ``ttlSecondsAfterFinished``; nor a session that may be idle
for longer a limit."""


class InvalidResource(ValueError):
    """A resource that the operator cannot act on: which one, which field, and what is wrong with it."""

    def __init__(self, subject: str, problem: str) -> None:
        self.subject = subject
        self.problem = problem
        super().__init__(f"{subject} is invalid: {problem}")


class HeartbeatMode(StrEnum):
    """Who sends the heartbeats: the operator, or nobody."""

    OPERATOR = "Operator"
    SUSPENDED = "Suspended"


class ConditionStatus(StrEnum):
    """Whether a condition is true; unknown where the operator cannot know."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class CredentialsSecretRef(SpecPart):
    """A Secret with a key or a token for the Work API."""

    name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=253,
            pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
        ),
    ]


class HeartbeatSpec(SpecPart):
    """Who sends the heartbeats."""

    mode: HeartbeatMode = HeartbeatMode.OPERATOR


class RestartPolicy(StrEnum):
    """When the kubelet starts a pod's containers again."""

    ALWAYS = "Always"
    ON_FAILURE = "OnFailure"
    NEVER = "Never"


ContainerName = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]


class PodContainer(PodPart):
    """The fields of a container that the resource checks."""

    name: ContainerName
    image: Annotated[str, Field(min_length=1, max_length=4096)]


class PodSpec(PodPart):
    """The fields of a pod's specification that the resource checks; the API server checks the rest."""

    restart_policy: RestartPolicy | None = None
    containers: Annotated[list[PodContainer], Field(min_length=1, max_length=64)]


LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$")]
AnnotationValue = Annotated[str, Field(max_length=65_536)]


class PodMetadata(SpecPart):
    """The metadata that a template may set; the operator sets the rest."""

    labels: Annotated[dict[str, LabelValue], Field(max_length=64), NO_NULLS] | None = None
    annotations: Annotated[dict[str, AnnotationValue], Field(max_length=64), NO_NULLS] | None = None


class PodTemplate(SpecPart):
    """The shape of ``spec.sandbox.template``: the template is checked by it, and kept as it is."""

    metadata: PodMetadata | None = None
    spec: PodSpec


def _a_pod_template(value: dict[str, Any]) -> dict[str, Any]:
    PodTemplate.from_wire(value)
    return value


class WorkerSpec(SpecPart):
    """How the program in the sandbox relates to the lease."""

    proxy: StrictBool = False


class ClaimSpec(PodPart):
    """The fields of a claim's specification that the resource checks; the API server checks the rest."""

    access_modes: Annotated[list[Annotated[str, Field(max_length=63)]], Field(min_length=1, max_length=8)]


class ClaimTemplate(SpecPart):
    """The shape of ``spec.sandbox.workspace.volumeClaimTemplate``, which is kept as it is."""

    metadata: PodMetadata | None = None
    spec: ClaimSpec


def _a_claim_template(value: dict[str, Any]) -> dict[str, Any]:
    ClaimTemplate.from_wire(value)
    return value


class RetentionSpec(SpecPart):
    """For how long a volume is kept that no WorkLease uses."""

    idle_seconds: Annotated[int, Field(strict=True, ge=0, le=A_YEAR), INTEGRAL] = A_WEEK


class WorkspaceSpec(SpecPart):
    """The volume that a session's sandboxes have one after the other."""

    mount_path: Annotated[str, Field(max_length=1024, pattern=r"^/[^:]*$")] = "/workspace"
    containers: Annotated[tuple[ContainerName, ...], Field(min_length=1, max_length=64)] | None = None
    volume_claim_template: Annotated[dict[str, Any], AfterValidator(_a_claim_template)]
    retention: RetentionSpec = Field(default=RetentionSpec(), validate_default=True)


class SandboxSpec(SpecPart):
    """What the pod should be that works on the item, and what follows when it fails."""

    worker: Annotated[WorkerSpec, AfterValidator(shared)] | None = None
    template: Annotated[dict[str, Any], AfterValidator(_a_pod_template)] | None = None
    start_deadline_seconds: Annotated[int, Field(strict=True, ge=1, le=A_DAY), INTEGRAL] = 600
    drain_seconds: Annotated[int, Field(strict=True, ge=0, le=A_DAY), INTEGRAL] = 30
    on_failure: OnFailure = OnFailure.STOP
    max_restarts: Annotated[int, Field(strict=True, ge=1, le=1000), INTEGRAL] = 3
    # No default: unset, it depends on the template and on ``on_failure``.
    on_disruption: OnFailure | None = None
    max_disruptions: Annotated[int, Field(strict=True, ge=1, le=1000), INTEGRAL] = 10
    keep_failed_pod: StrictBool = False
    workspace: WorkspaceSpec | None = None
    idle_seconds: Annotated[int, Field(strict=True, ge=1, le=A_YEAR), INTEGRAL] | None = None
    waiting_seconds: Annotated[int, Field(strict=True, ge=1, le=A_YEAR), INTEGRAL] | None = None

    @property
    def has_proxy(self) -> bool:
        """Whether the pod that is made gets a proxy beside its worker."""
        return self.worker is not None and self.worker.proxy

    @model_validator(mode="after")
    def _workspace_has_a_template(self) -> Self:
        if self.workspace is not None and self.template is None:
            raise misfit(self, ("workspace",), "workspace needs a template")
        return self

    @model_validator(mode="after")
    def _proxy_fits_the_template(self) -> Self:
        if not self.has_proxy:
            return self
        if self.template is None:
            raise misfit(self, ("worker",), "worker.proxy needs a template")
        if (self.template["spec"].get("restartPolicy") or RestartPolicy.NEVER) != RestartPolicy.NEVER:
            raise misfit(self, ("template", "spec"), "worker.proxy needs restartPolicy Never")
        return self

    def policy(self) -> Policy:
        """What this asks of the sandbox, as the rules read it."""
        return Policy(
            is_made=self.template is not None,
            start_deadline=float(self.start_deadline_seconds),
            drain=float(self.drain_seconds),
            on_failure=self.on_failure,
            max_restarts=self.max_restarts,
            asked_on_disruption=self.on_disruption,
            max_disruptions=self.max_disruptions,
            keeps_failed=self.keep_failed_pod,
            idle=None if self.idle_seconds is None else float(self.idle_seconds),
            waiting=None if self.waiting_seconds is None else float(self.waiting_seconds),
        )

    def template_labels(self) -> Mapping[str, str]:
        """The labels that the template gives its pod."""
        metadata = (self.template or {}).get("metadata") or {}
        return {key: value for key, value in (metadata.get("labels") or {}).items() if value is not None}


class CommonLeaseSpec(SpecPart):
    """How to keep a lease, whichever it is: what the WorkLeases of a pool have in common."""

    ttl_seconds: Annotated[int, Field(strict=True, ge=1, le=A_DAY), INTEGRAL] | None = None
    heartbeat: Annotated[HeartbeatSpec, AfterValidator(shared)] = Field(default=HeartbeatSpec(), validate_default=True)
    sandbox: Annotated[SandboxSpec, AfterValidator(shared)] | None = None
    deletion_policy: DeletionPolicy = DeletionPolicy.STOP
    ttl_seconds_after_finished: Annotated[int, Field(strict=True, ge=0, le=A_YEAR), INTEGRAL] | None = None


class WorkLeaseSpec(CommonLeaseSpec):
    """Which work item's lease to keep, and how."""

    environment_id: Annotated[Identifier, Field(alias="environmentID")]
    work_id: Annotated[Identifier, Field(alias="workID")]
    credentials_secret_ref: CredentialsSecretRef | None = None
    session_id: Annotated[Identifier | None, Field(alias="sessionID")] = None
    sessions_token_secret_ref: CredentialsSecretRef | None = None
    acknowledge: StrictBool = False
    delivery: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")] | None = (
        None
    )

    @property
    def session(self) -> str:
        """The session that the item is for: by default its id is the item's."""
        return self.session_id or self.work_id

    def policy(self) -> Policy | None:
        """What this asks of the sandbox; None where it asks for none."""
        if self.sandbox is None:
            return None
        return replace(self.sandbox.policy(), releases_unstarted=self.delivery is not None)

    @model_validator(mode="after")
    def _labels_are_of_this_item(self) -> Self:
        labels = self.sandbox.template_labels() if self.sandbox else {}
        for label, expected in ((WORK_LABEL, self.work_id), (ENVIRONMENT_LABEL, self.environment_id)):
            if labels.get(label, expected) != expected:
                location = ("sandbox", "template", "metadata", "labels", label)
                raise misfit(self, location, "contradicts the spec: leave the label out, the operator sets it")
        return self


class SandboxStatus(StatusPart):
    """A sandbox pod and how it ended."""

    pod_uid: Annotated[str, Field(alias="podUID", min_length=1, max_length=128)]
    pod_name: Annotated[str, Field(max_length=253)] | None = None
    phase: Annotated[str, Field(max_length=64), at_most(64)] | None = None
    reason: Annotated[str, Field(max_length=256), at_most(256)] | None = None
    message: Annotated[str, Field(max_length=LONGEST_SANDBOX_MESSAGE), at_most(LONGEST_SANDBOX_MESSAGE)] | None = None
    # Exit codes are signed, but those of Windows are unsigned.
    exit_code: Annotated[int, Field(strict=True, ge=-(2**31), le=2**32 - 1), INTEGRAL] | None = None
    finish_time: Time | None = None


class StatusCondition(StatusPart):
    """One aspect of the lease or its sandbox, in the form of the Kubernetes API conventions."""

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
    message: Annotated[str, Field(max_length=LONGEST_MESSAGE), at_most(LONGEST_MESSAGE)]
    last_transition_time: Time
    observed_generation: Annotated[int, Field(strict=True, ge=0, le=LARGEST_INTEGER), INTEGRAL] | None = None


def _the_latest_pods(value: object) -> object:
    """Drop the earliest pods that are too many for a status; the current one comes first."""
    return value[:MOST_SANDBOXES] if isinstance(value, list | tuple) else value


def _each_pod_once(sandboxes: tuple[SandboxStatus, ...]) -> tuple[SandboxStatus, ...]:
    if len({sandbox.pod_uid for sandbox in sandboxes}) < len(sandboxes):
        raise PydanticCustomError("duplicate", "Input should list each podUID once")
    return sandboxes


def _each_type_once(conditions: tuple[StatusCondition, ...]) -> tuple[StatusCondition, ...]:
    if len({condition.type for condition in conditions}) < len(conditions):
        raise PydanticCustomError("duplicate", "Input should list each type of condition once")
    return conditions


class ResourceStatus(StatusPart):
    """What the status of each kind of resource has, and how it is written."""

    conditions: Annotated[tuple[StatusCondition, ...], Field(max_length=16), AfterValidator(_each_type_once)] = ()
    observed_generation: Annotated[int, Field(strict=True, ge=0, le=LARGEST_INTEGER), INTEGRAL] | None = None
    operator: Annotated[str, Field(max_length=LONGEST_OPERATOR)] | None = None

    def as_merge_patch(self) -> dict[str, Any]:
        """The status as the ``status`` of a JSON merge patch, which removes the fields that this status lacks.

        All but the installation's name: it has a write of its own, which must not undo that of another installation.
        """
        said = self.model_dump(mode="json", exclude_none=True, exclude_defaults=True, exclude={"operator"})
        fields = {field.alias or name for name, field in type(self).model_fields.items()} - {"operator"}
        absent: dict[str, Any] = dict.fromkeys(fields)
        return absent | said


class WorkLeaseStatus(ResourceStatus):
    """What the operator last saw: for people, and for a restart whose checkpoint is lost."""

    last_heartbeat: Annotated[str, Field(max_length=LONGEST_HEARTBEAT)] | None = None
    # Not an enum: a state that this operator does not know yet is shown, not rejected.
    state: Annotated[str, Field(max_length=256), at_most(256)] | None = None
    lease_extended: StrictBool | None = None
    ttl_seconds: Annotated[int, Field(strict=True, ge=0, le=LARGEST_INTEGER), INTEGRAL] | None = None
    observed_time: Time | None = None
    granted_ttl_seconds: Annotated[
        Annotated[int, Field(strict=True, ge=1, le=LARGEST_INTEGER), INTEGRAL] | None,
        Field(alias="grantedTTLSeconds"),
    ] = None
    lease_expiry_time: Time | None = None
    claim_time: Time | None = None
    sandboxes: Annotated[
        tuple[SandboxStatus, ...],
        Field(max_length=MOST_SANDBOXES),
        BeforeValidator(_the_latest_pods),
        AfterValidator(_each_pod_once),
    ] = ()
    attempt: Annotated[int, Field(strict=True, ge=0, le=2**31 - 1), INTEGRAL] | None = None
    restarts: Annotated[int, Field(strict=True, ge=0, le=2**31 - 1), INTEGRAL] | None = None
    disruptions: Annotated[int, Field(strict=True, ge=0, le=2**31 - 1), INTEGRAL] | None = None


def _ours(labels: dict[str, str]) -> dict[str, str]:
    """Keep the operator's own labels: there are thousands of resources, and others' labels decide nothing."""
    return {key: value for key, value in labels.items() if key.startswith(f"{GROUP}/")}


class ResourceMetadata(StatusPart):
    """The metadata that the operator needs."""

    name: str
    namespace: str
    uid: str
    generation: int
    creation_timestamp: Time
    deletion_timestamp: Time | None = None
    finalizers: tuple[str, ...] = ()
    labels: Annotated[dict[str, str], AfterValidator(_ours)] = {}  # noqa: RUF012 (pydantic copies it)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkLease:
    """A whole resource, as far as the operator needs it.

    ``status_problem`` says why a status could not be read; such a status counts as empty.
    """

    name: str
    namespace: str
    uid: str
    generation: int
    creation_timestamp: datetime
    deletion_timestamp: datetime | None
    finalizers: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    """Those of ``worklease.dev``."""
    spec: WorkLeaseSpec
    status: WorkLeaseStatus
    status_problem: str | None = None

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Self:
        """Read a resource as the API server returned it.

        Raises:
            InvalidResource: The API server would not accept its spec or metadata. A status never raises.
        """
        named = body.get("metadata") or {}
        subject = f"WorkLease {named.get('namespace')}/{named.get('name')}"
        try:
            metadata = ResourceMetadata.from_wire(named)
        except ValidationError as error:
            raise InvalidResource(subject, in_one_line("metadata", error)) from error
        try:
            spec = WorkLeaseSpec.from_wire(body.get("spec"))
        except ValidationError as error:
            raise InvalidResource(subject, in_one_line("spec", error)) from error
        status, status_problem = _read_status(body.get("status"))
        return cls(**dict(metadata), spec=spec, status=status, status_problem=status_problem)

    @classmethod
    def vanished(cls, uid: str, namespace: str, environment_id: str, work_id: str, at: datetime) -> Self:
        """Return what is left of a resource that exists no more: nobody knows its name or what else it asked for."""
        return cls(
            name=f"vanished-{uid}",
            namespace=namespace,
            uid=uid,
            generation=0,
            creation_timestamp=at,
            deletion_timestamp=None,
            finalizers=(),
            spec=WorkLeaseSpec.from_wire({"environmentID": environment_id, "workID": work_id}),
            status=WorkLeaseStatus(),
        )


def _read_status(raw: object) -> tuple[WorkLeaseStatus, str | None]:
    """Return the status, and why it could not be read: such a status counts as empty."""
    try:
        return WorkLeaseStatus.from_wire({} if raw is None else raw), None
    except ValidationError as error:
        return WorkLeaseStatus(), in_one_line("status", error)
