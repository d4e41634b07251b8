"""The proxy beside an unmodified worker: what the operator adds to a pod, and to the worker's variables, for it.

Owns the sidecar container, its volume, and the variables by which a worker finds it. Must not call anybody. Of the
user's containers nothing but these variables is touched.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from worklease.api.models import SandboxSpec, WorkLease
from worklease.api.names import DRAINING, PROXY_CONTAINER
from worklease.cluster.credentials import SESSIONS_TOKEN, WORK_SECRET

ADDRESS: Final = "http://127.0.0.1:8788"
"""Where the proxy listens, in the pod's own network."""

BASE_URL: Final = "ANTHROPIC_BASE_URL"
ENVIRONMENT_KEY: Final = "ANTHROPIC_ENVIRONMENT_KEY"
SESSION: Final = "ANTHROPIC_SESSION_ID"
SECRET: Final = "ANTHROPIC_WORK_SECRET"  # noqa: S105 (the name of a variable)
"""What the public SDK's worker reads, besides what every container gets."""

NO_PROXY: Final = ("NO_PROXY", "no_proxy")
LOOPBACK: Final = "127.0.0.1,localhost"
"""Hosts that are not to be reached through a proxy of the network: the sidecar."""

FOLDER: Final = "/etc/worklease/pod"
"""Where the sidecar reads the pod's own annotation."""

RESOURCES: Final = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}}
"""Idle it has 40 MiB, and 64 with 200 calls at once. No limit of CPU: a worker must not wait for its proxy."""

PROBE: Final = {
    "exec": {"command": ["worklease", "proxy", "--ready"]},
    "periodSeconds": 1,
    "timeoutSeconds": 5,
    "failureThreshold": 60,
}
"""The worker starts when the proxy listens. It listens to its own pod only, so the kubelet asks from inside."""

DRAIN_HOOK: Final = {"preStop": {"exec": {"command": ["worklease", "proxy", "--drain"]}}}
"""Whoever deletes or evicts the pod: the worker hears of it before its grace ends."""

ROOT: Final = 0
OWN_USER: Final = 65532
"""The image's user, for a pod whose containers run as root unless they say otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyOptions:
    """What the settings say of every proxy."""

    image: str = ""
    """Empty: none is set, and a resource that asks for a proxy is refused."""
    upstream: str = ""
    """The API's address where a template names none."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """How the operator itself reaches the API: proxies of the network, and certificate authorities."""


def proxy_problem(sandbox: SandboxSpec, spec: Mapping[str, Any], options: ProxyOptions) -> str:
    """Return why a proxy cannot be added to a pod of this ``spec``; empty if it can, or is not asked for."""
    if not sandbox.has_proxy:
        return ""
    if not options.image:
        return "worker.proxy needs the operator's setting WORKLEASE_PROXY_IMAGE, which is not set"
    if spec.get("hostNetwork"):
        return "worker.proxy listens in the pod's own network, so hostNetwork must not be true"
    taken = [*_containers(spec), *(spec.get("volumes") or ())]
    if any(each.get("name") == PROXY_CONTAINER for each in taken):
        return f"worker.proxy adds a container and a volume named {PROXY_CONTAINER}, and the template has one already"
    entries = [entry for each in _containers(spec) for entry in each.get("env") or ()]
    computed = [
        str(entry["name"])
        for entry in entries
        if entry.get("name") in {BASE_URL, *NO_PROXY} and ("valueFrom" in entry or "$(" in str(entry.get("value")))
    ]
    if computed:
        return f"worker.proxy rewrites {computed[0]}, so the template must give it as a plain value"
    addresses = sorted({_plain(entry) for entry in entries if entry.get("name") == BASE_URL} - {ADDRESS})
    if len(addresses) > 1:
        return f"worker.proxy has one upstream, and the template's containers have {' and '.join(addresses)}"
    return ""


def add_proxy(resource: WorkLease, secret: str, spec: dict[str, Any], options: ProxyOptions) -> dict[str, Any]:
    """Return a pod's spec with the proxy, first of its containers, and with the variables that lead to it."""
    upstream = next(iter(_given(spec)), options.upstream)
    added = {
        **spec,
        "initContainers": [
            _sidecar(resource, spec, upstream, options),
            *(_through_proxy(resource, secret, each) for each in spec.get("initContainers") or ()),
        ],
        "containers": [_through_proxy(resource, secret, each) for each in spec["containers"]],
    }
    item = {"path": "draining", "fieldRef": {"fieldPath": f"metadata.annotations['{DRAINING}']"}}
    volume = {"name": PROXY_CONTAINER, "downwardAPI": {"items": [item]}}
    return added | {"volumes": [*(spec.get("volumes") or ()), volume]}


def _given(spec: Mapping[str, Any]) -> list[str]:
    """Return the upstream that the template's containers name, at most one."""
    entries = (entry for each in _containers(spec) for entry in each.get("env") or ())
    named = {_plain(entry) for entry in entries if entry.get("name") == BASE_URL}
    return sorted(named - {ADDRESS, ""})


def _containers(spec: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    return [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]


def _plain(entry: Mapping[str, Any]) -> str:
    return str(entry.get("value") or "").rstrip("/")


def _through_proxy(resource: WorkLease, secret: str, container: Mapping[str, Any]) -> dict[str, Any]:
    """Return a container with the variables by which the SDK's worker finds its item and the proxy."""
    own = {str(entry.get("name")): entry for entry in container.get("env") or ()}
    fixed = {BASE_URL: ADDRESS} | {
        name: ",".join(filter(None, [_plain(own.get(name, {})), LOOPBACK])) for name in NO_PROXY
    }
    token, whole = ({"name": secret, "key": key, "optional": True} for key in (SESSIONS_TOKEN, WORK_SECRET))
    defaults: list[dict[str, Any]] = [
        {"name": SESSION, "value": resource.spec.session},
        {"name": ENVIRONMENT_KEY, "valueFrom": {"secretKeyRef": token}},
        {"name": SECRET, "valueFrom": {"secretKeyRef": whole}},
    ]
    # Each stays in its place: a later variable may refer to it.
    kept = [{"name": name, "value": fixed[name]} if name in fixed else entry for name, entry in own.items()]
    added = [{"name": name, "value": value} for name, value in fixed.items()] + defaults
    return {**container, "env": [*kept, *(entry for entry in added if entry["name"] not in own)]}


def _sidecar(resource: WorkLease, spec: Mapping[str, Any], upstream: str, options: ProxyOptions) -> dict[str, Any]:
    sandbox = resource.spec.sandbox
    variables = {
        "ANTHROPIC_ENVIRONMENT_ID": resource.spec.environment_id,
        "ANTHROPIC_WORK_ID": resource.spec.work_id,
        "WORKLEASE_PROXY_UPSTREAM": upstream,
        "WORKLEASE_PROXY_DRAIN_SECONDS": str(sandbox.drain_seconds if sandbox is not None else 0),
        "WORKLEASE_PROXY_DRAIN_FILE": f"{FOLDER}/draining",
        **options.variables,
    }
    return {
        "name": PROXY_CONTAINER,
        "image": options.image,
        "args": ["proxy"],
        "restartPolicy": "Always",
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "startupProbe": PROBE,
        "lifecycle": DRAIN_HOOK,
        "resources": RESOURCES,
        "securityContext": _security(spec),
        "volumeMounts": [{"name": PROXY_CONTAINER, "mountPath": FOLDER, "readOnly": True}],
    }


def _security(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the Pod Security Standard ``restricted`` asks for; the pod's own user is taken, unless it is root."""
    restricted: dict[str, Any] = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    is_root = (spec.get("securityContext") or {}).get("runAsUser") == ROOT
    return restricted | ({"runAsUser": OWN_USER} if is_root else {})
