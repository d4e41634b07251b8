"""The pod of a resource's template: the template as it is, and what the operator adds.

Owns the pod's name, its labels, its owner, and the variables about its work item. Must not call anybody. The
environment's key never gets into the pod; a token for the item alone gets there by reference.
"""

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from worklease.api.models import WorkLease
from worklease.api.names import ENVIRONMENT_LABEL, POOL_LABEL, SANDBOX_CONTAINERS, SESSION_LABEL, WORK_LABEL
from worklease.cluster.credentials import SESSIONS_TOKEN
from worklease.cluster.pod_reading import container_names
from worklease.cluster.proxy_sidecar import BASE_URL, ProxyOptions, add_proxy, proxy_problem
from worklease.cluster.workspace_objects import add_workspace, claim_name, session_of, workspace_problem

LONGEST_NAME: Final = 63
"""Characters of a pod's name at most: Kubernetes would cut a longer one for the host name."""

HASH: Final = 10
"""Characters of a name's hash: 40 bits, enough to keep the attempts of all resources of a namespace apart."""

ENVIRONMENT_VARIABLE: Final = "ANTHROPIC_ENVIRONMENT_ID"
WORK_VARIABLE: Final = "ANTHROPIC_WORK_ID"
SESSION_VARIABLE: Final = "ANTHROPIC_SESSION_ID"
TOKEN_VARIABLE: Final = "ANTHROPIC_AUTH_TOKEN"  # noqa: S105 (the name of a variable)
"""Names that the public SDK reads. Those by which its worker would send heartbeats itself come with a proxy only."""

DEFAULT_API: Final = "https://api.anthropic.com"
"""Where the public SDK finds the API by itself."""

NO_ANNOTATIONS: Final[Mapping[str, str]] = MappingProxyType({})
NO_PROXIES: Final = ProxyOptions()


def pod_name(resource: WorkLease, attempt: int) -> str:
    """Return the name of an attempt's pod: always the same, so that after a crash the pod is not made twice."""
    digest = hashlib.sha256(f"{resource.uid}/{attempt}".encode()).hexdigest()[:HASH]
    return f"{resource.name[: LONGEST_NAME - HASH - 1].rstrip('-.')}-{digest}"


def template_problem(resource: WorkLease, proxy: ProxyOptions = NO_PROXIES) -> str:
    """Return what is wrong with a template that the API server cannot see; empty if nothing is."""
    template, sandbox = _template(resource), resource.spec.sandbox
    if sandbox is not None and (problem := proxy_problem(sandbox, _without_nulls(template.get("spec")), proxy)):
        return problem
    workspace = None if sandbox is None else sandbox.workspace
    if problem := workspace_problem(workspace, _without_nulls(template.get("spec"))):
        return problem
    names = [container.get("name") for container in _without_nulls(template.get("spec")).get("containers") or ()]
    asked = container_names(_annotations(template).get(SANDBOX_CONTAINERS) or "")
    unknown = [name for name in asked if name not in names]
    if not unknown:
        return ""
    return f"the annotation {SANDBOX_CONTAINERS} names {', '.join(unknown)}, which no container of the template is"


def pod_body(
    resource: WorkLease,
    attempt: int,
    secret: str,
    annotations: Mapping[str, str] = NO_ANNOTATIONS,
    proxy: ProxyOptions = NO_PROXIES,
    *,
    claim: str | None = None,
) -> dict[str, Any]:
    """Return the pod of an attempt; ``secret`` is the name of the resource's Secret.

    ``claim`` is that of the session's volume; None: the one that is made where a session has none. ``annotations`` are
    those that the settings give to every sandbox; the template's own win. The pod says itself which
    containers are the sandbox: others may be injected into it, first of all of them.

    The owner reference does not block the owner's deletion: that would need a right on the owner's finalizers, and the
    operator's own finalizer keeps the order already.
    """
    template = _template(resource)
    metadata, spec = template.get("metadata") or {}, _without_nulls(template.get("spec"))
    labels = _labels(resource)
    named = {**annotations, **_annotations(template)}
    if not container_names(named.get(SANDBOX_CONTAINERS) or ""):
        named[SANDBOX_CONTAINERS] = ",".join(str(each.get("name")) for each in spec.get("containers") or ())
    variables = _variables(resource, secret, proxy.upstream if resource.spec.delivery is not None else "")
    for kind in ("initContainers", "containers"):
        if spec.get(kind):
            spec[kind] = [_with_environment(container, variables) for container in spec[kind]]
    sandbox = resource.spec.sandbox
    if sandbox is not None and sandbox.workspace is not None:
        spec = add_workspace(spec, sandbox.workspace, claim or claim_name(session_of(resource)))
    if sandbox is not None and sandbox.has_proxy:
        spec = add_proxy(resource, secret, spec, proxy)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(resource, attempt),
            "namespace": resource.namespace,
            "labels": _without_nulls(metadata.get("labels")) | labels,
            "annotations": named,
            "ownerReferences": [_owner(resource)],
        },
        "spec": {"restartPolicy": "Never", "automountServiceAccountToken": False} | spec,
    }


def _owner(resource: WorkLease) -> dict[str, Any]:
    return {
        "apiVersion": "worklease.dev/v1alpha1",
        "kind": "WorkLease",
        "name": resource.name,
        "uid": resource.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def _labels(resource: WorkLease) -> dict[str, str]:
    """Return the labels by which people and the operator find a pod: its item, its session, its pool."""
    labels = {ENVIRONMENT_LABEL: resource.spec.environment_id, WORK_LABEL: resource.spec.work_id}
    if (pool := resource.labels.get(POOL_LABEL)) is not None:
        labels[POOL_LABEL] = pool
    if resource.spec.session_id is not None:
        labels[SESSION_LABEL] = resource.spec.session_id
    return labels


def _template(resource: WorkLease) -> Mapping[str, Any]:
    return (resource.spec.sandbox.template if resource.spec.sandbox is not None else None) or {}


def _annotations(template: Mapping[str, Any]) -> dict[str, Any]:
    return _without_nulls((template.get("metadata") or {}).get("annotations"))


def _without_nulls(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """Drop a map's nulls: they say nothing."""
    return {key: value for key, value in (values or {}).items() if value is not None}


def _variables(resource: WorkLease, secret: str, api: str) -> list[dict[str, Any]]:
    """Return the variables that tell a container which item it works on, and where ``api`` is, if it is no default."""
    address = [] if api in {"", DEFAULT_API} else [{"name": BASE_URL, "value": api}]
    token = {"name": secret, "key": SESSIONS_TOKEN, "optional": True}
    return [
        {"name": ENVIRONMENT_VARIABLE, "value": resource.spec.environment_id},
        {"name": WORK_VARIABLE, "value": resource.spec.work_id},
        {"name": SESSION_VARIABLE, "value": resource.spec.session},
        {"name": TOKEN_VARIABLE, "valueFrom": {"secretKeyRef": token}},
        *address,
    ]


def _with_environment(container: Mapping[str, Any], variables: list[dict[str, Any]]) -> dict[str, Any]:
    """Add variables to a container; those that it sets itself stay as they are."""
    own = container.get("env") or []
    named = {entry.get("name") for entry in own}
    return {**container, "env": [*own, *(entry for entry in variables if entry["name"] not in named)]}
