"""A session's volume as Kubernetes has it: the claim that is made, how it is read, and how it gets into a pod.

Owns its name, its labels and annotations. Must not call anybody, and must not decide which volume is used or deleted.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from worklease.api.models import WorkLease, WorkspaceSpec
from worklease.api.names import (
    ENVIRONMENT_LABEL,
    IDLE_ANNOTATION,
    MANAGED_BY_LABEL,
    MANAGER,
    SESSION_LABEL,
    UNUSED_ANNOTATION,
    USED_BY_ANNOTATION,
)
from worklease.rules.workspaces import Session, Volume

VOLUME: Final = "worklease-workspace"
"""The name of the volume within the pod."""

HASH: Final = 20
"""Hexadecimal digits in a claim's name: 80 bits, so that no two sessions of a namespace ever share a volume."""


def session_of(resource: WorkLease) -> Session:
    """Return the session whose volume a resource's pods get."""
    return (resource.spec.environment_id, resource.spec.session)


def claim_name(session: Session) -> str:
    """Return the name of a session's claim: always the same, so that it is not made twice."""
    return f"worklease-{hashlib.sha256('/'.join(session).encode()).hexdigest()[:HASH]}"


def selector(session: Session) -> str:
    """Return the label selector that finds a session's claims, whoever made them."""
    return f"{SESSION_LABEL}={session[1]},{ENVIRONMENT_LABEL}={session[0]}"


def use_of(resource: WorkLease, workspace: WorkspaceSpec) -> dict[str, str | None]:
    """Return the annotations of a claim that a resource is about to use, as a merge patch has them."""
    return {
        USED_BY_ANNOTATION: resource.uid,
        IDLE_ANNOTATION: str(workspace.retention.idle_seconds),
        UNUSED_ANNOTATION: None,
    }


def claim_body(resource: WorkLease, workspace: WorkspaceSpec) -> dict[str, Any]:
    """Return the claim of a resource's session, from the template. It has no owner: it outlives its resources."""
    session, template = session_of(resource), workspace.volume_claim_template
    metadata = template.get("metadata") or {}
    labels, annotations = (_without_nulls(metadata.get(part)) for part in ("labels", "annotations"))
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": claim_name(session),
            "namespace": resource.namespace,
            "labels": labels | {MANAGED_BY_LABEL: MANAGER, ENVIRONMENT_LABEL: session[0], SESSION_LABEL: session[1]},
            "annotations": annotations | _without_nulls(use_of(resource, workspace)),
        },
        "spec": _without_nulls(template.get("spec")),
    }


def read_volume(body: Mapping[str, Any]) -> Volume:
    """Return a claim, of which only the metadata are needed."""
    metadata = body["metadata"]
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    session = (labels.get(ENVIRONMENT_LABEL) or "", labels.get(SESSION_LABEL) or "")
    # Labels are easily copied from one object to another; the name is not.
    is_ours = labels.get(MANAGED_BY_LABEL) == MANAGER and metadata["name"] == claim_name(session)
    return Volume(
        name=metadata["name"],
        uid=metadata["uid"],
        version=metadata["resourceVersion"],
        session=session,
        created=metadata.get("creationTimestamp") or "",
        is_ours=is_ours,
        is_ending=metadata.get("deletionTimestamp") is not None,
        idle=_seconds(annotations.get(IDLE_ANNOTATION)),
        unused_since=_moment(annotations.get(UNUSED_ANNOTATION)),
    )


def marked(now: float | None) -> dict[str, str | None]:
    """Return the annotation that says since when a claim is not used; None: it is used."""
    return {UNUSED_ANNOTATION: None if now is None else datetime.fromtimestamp(now, UTC).isoformat()}


# --- In the pod --------------------------------------------------------------------------------------------------


def workspace_problem(workspace: WorkspaceSpec | None, spec: Mapping[str, Any]) -> str:
    """Return what is wrong with a workspace beside a pod's ``spec``; empty if nothing is, or none is asked for."""
    if workspace is None:
        return ""
    if any(volume.get("name") == VOLUME for volume in spec.get("volumes") or ()):
        return f"workspace adds a volume named {VOLUME}, and the template has one already"
    names = {each.get("name") for kind in _KINDS for each in spec.get(kind) or ()}
    unknown = [name for name in workspace.containers or () if name not in names]
    return f"workspace.containers names {', '.join(unknown)}, which no container of the template is" if unknown else ""


def add_workspace(spec: Mapping[str, Any], workspace: WorkspaceSpec, claim: str) -> dict[str, Any]:
    """Return a pod's spec with the volume, mounted into the containers that the workspace names, or into all."""
    mount = {"name": VOLUME, "mountPath": workspace.mount_path}
    added = dict(spec)
    for kind in _KINDS:
        if spec.get(kind):
            added[kind] = [_mounted(each, mount) if _has_it(each, workspace) else each for each in spec[kind]]
    volume = {"name": VOLUME, "persistentVolumeClaim": {"claimName": claim}}
    return added | {"volumes": [*(spec.get("volumes") or ()), volume]}


_KINDS: Final = ("initContainers", "containers")


def _has_it(container: Mapping[str, Any], workspace: WorkspaceSpec) -> bool:
    return workspace.containers is None or container.get("name") in workspace.containers


def _mounted(container: Mapping[str, Any], mount: Mapping[str, Any]) -> dict[str, Any]:
    return {**container, "volumeMounts": [*(container.get("volumeMounts") or ()), mount]}


def _without_nulls(values: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (values or {}).items() if value is not None}


def _seconds(text: object) -> float | None:
    """Read a number of seconds that anybody may have edited; None if it is none."""
    return float(text) if isinstance(text, str) and text.isascii() and text.isdigit() else None


def _moment(text: object) -> float | None:
    """Read a time that anybody may have edited, in seconds since the epoch; None if it is none."""
    try:
        read = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return None if read is None or read.tzinfo is None else read.timestamp()
