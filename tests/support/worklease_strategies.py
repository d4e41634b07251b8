"""Hypothesis strategies for WorkLease specs and statuses: valid ones, and ones with mistakes.

This module owns what generated specs and statuses look like. It does not say which of them are accepted: the models and
the API server do, and the tests compare the two.
"""

import copy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

from hypothesis import strategies as st

from worklease.api.models import (
    A_DAY,
    A_YEAR,
    LARGEST_INTEGER,
    LONGEST_HEARTBEAT,
    LONGEST_MESSAGE,
    MOST_SANDBOXES,
    ConditionStatus,
    SandboxStatus,
    StatusCondition,
    WorkLeaseStatus,
)
from worklease.api.names import ENVIRONMENT_LABEL, WORK_LABEL

Place = tuple[str | int, ...]

ODD_STRINGS: Final = (
    "",
    " ",
    "-",
    "a\n",
    "\na",
    "a b",
    "a/b",
    "a.b",
    "a..b",
    "_a",
    "a_",
    "A",
    "é",
    "\U0001d4b6",
    "\x00",
    "\u2028",
    "Stop",
    "operator",
    "Restart",
    "Operator ",
    "1",
    "true",
    "null",
    "2026-11-22T03:52:26Z",
    "${jndi}",
)
"""Strings on which two readers of one pattern may differ: line ends, case, signs, other scripts, similar words."""

LENGTHS: Final = (62, 63, 64, 253, 254, 4096, 4097, 65_536, 65_537)
"""The lengths around which some field becomes valid or invalid."""

NUMBERS: Final = (
    -(2**63),
    -1,
    -1.0,
    -0.0,
    0,
    0.5,
    1,
    1.0,
    1.5,
    2,
    999,
    1000,
    1001,
    A_DAY - 1,
    A_DAY,
    float(A_DAY),
    A_DAY + 1,
    A_YEAR,
    A_YEAR + 1,
    2**31 - 1,
    2**31,
    2**53,
    2**63,
    2**64,
    1e300,
)
"""Numbers at the bounds of some field, and JSON numbers that are not integers."""


def identifiers() -> st.SearchStrategy[str]:
    """Return ids that are valid as a label's value, up to the longest."""
    return st.one_of(
        st.sampled_from(["work_demo1", "sesn_0aZ", "a", "A-b_c", "x" * 63]),
        st.from_regex(r"\A[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?\Z"),
    )


def optional(required: dict[str, Any], others: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return objects with all fields of the first, and any of the second."""
    return st.fixed_dictionaries(required, optional=others)


def _names() -> st.SearchStrategy[str]:
    return st.from_regex(r"\A[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?\Z")


def _json() -> st.SearchStrategy[Any]:
    """Return any JSON value, as fields of a pod may contain."""
    leaves = st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.sampled_from(ODD_STRINGS))
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(["env", "a"]), inner, max_size=2)
        ),
        max_leaves=4,
    )


def templates(environment_id: str, work_id: str) -> st.SearchStrategy[dict[str, Any]]:
    """Return pod templates whose labels agree with the item, with fields that belong to pods only."""
    container = optional({"name": _names(), "image": st.just("busybox:1.37")}, {"env": _json(), "whatever": _json()})
    label_values = st.sampled_from(["", "a", "A.b-c_9", "x" * 63])
    labels = optional(
        {}, {WORK_LABEL: st.just(work_id), ENVIRONMENT_LABEL: st.just(environment_id), "app": label_values}
    )
    annotations = st.dictionaries(st.sampled_from(["note", "example.com/x"]), st.sampled_from(ODD_STRINGS), max_size=2)
    pod = optional(
        {"containers": st.lists(container, min_size=1, max_size=2)},
        {"restartPolicy": st.sampled_from(["Never", "OnFailure", "Always"]), "volumes": _json()},
    )
    return optional({"spec": pod}, {"metadata": optional({}, {"labels": labels, "annotations": annotations})})


def workspaces() -> st.SearchStrategy[dict[str, Any]]:
    """Return valid values of ``spec.sandbox.workspace``, with fields that belong to claims only."""
    modes = st.lists(st.sampled_from(["ReadWriteOnce", "ReadWriteMany"]), min_size=1, max_size=2)
    values = st.dictionaries(st.sampled_from(["note", "example.com/x"]), st.sampled_from(["", "a"]), max_size=2)
    template = optional(
        {"spec": optional({"accessModes": modes}, {"resources": _json()})},
        {"metadata": optional({}, {"labels": values, "annotations": values})},
    )
    return optional(
        {"volumeClaimTemplate": template},
        {
            "mountPath": st.sampled_from(["/", "/workspace", "/home/a b", "/" + "x" * 1023]),
            "containers": st.lists(_names(), min_size=1, max_size=3),
            "retention": optional({}, {"idleSeconds": st.integers(0, A_YEAR)}),
        },
    )


def sandboxes(environment_id: str, work_id: str) -> st.SearchStrategy[dict[str, Any]]:
    """Return valid values of ``spec.sandbox``."""
    fields: dict[str, st.SearchStrategy[Any]] = {
        "template": templates(environment_id, work_id),
        "startDeadlineSeconds": st.integers(1, A_DAY),
        "drainSeconds": st.integers(0, A_DAY),
        "onFailure": st.sampled_from(["Stop", "Release", "Restart"]),
        "maxRestarts": st.integers(1, 1000),
        "onDisruption": st.sampled_from(["Restart", "Stop", "Release"]),
        "maxDisruptions": st.integers(1, 1000),
        "keepFailedPod": st.booleans(),
        "workspace": workspaces(),
        "idleSeconds": st.integers(1, A_YEAR),
        "waitingSeconds": st.integers(1, A_YEAR),
        "worker": optional({}, {"proxy": st.booleans()}),
    }
    return optional({}, fields).map(_with_what_a_proxy_needs).map(_with_what_a_workspace_needs)


def _with_what_a_proxy_needs(sandbox: dict[str, Any]) -> dict[str, Any]:
    """Drop a proxy that no template is there for, and the template's other restart policy."""
    if sandbox.get("worker", {}).get("proxy"):
        if "template" not in sandbox:
            return {key: value for key, value in sandbox.items() if key != "worker"}
        sandbox["template"]["spec"].pop("restartPolicy", None)
    return sandbox


def _with_what_a_workspace_needs(sandbox: dict[str, Any]) -> dict[str, Any]:
    """Drop a workspace that no template is there for."""
    return {key: value for key, value in sandbox.items() if key != "workspace" or "template" in sandbox}


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """Return valid specs as a user writes them: camelCase, with or without the fields that have defaults."""
    environment_id, work_id = draw(identifiers()), draw(identifiers())
    others: dict[str, st.SearchStrategy[Any]] = {
        "ttlSeconds": st.integers(1, A_DAY),
        "credentialsSecretRef": st.fixed_dictionaries({"name": st.sampled_from(["a", "my-key.v1", "x" * 253])}),
        "sessionID": identifiers(),
        "acknowledge": st.booleans(),
        "delivery": st.sampled_from(["a", "0f3a", "x" * 63]),
        "sessionsTokenSecretRef": st.fixed_dictionaries({"name": st.sampled_from(["a", "my-token.v1", "x" * 253])}),
        "heartbeat": optional({}, {"mode": st.sampled_from(["Operator", "Suspended"])}),
        "sandbox": sandboxes(environment_id, work_id),
        "deletionPolicy": st.sampled_from(["Stop", "Release"]),
        "ttlSecondsAfterFinished": st.integers(0, A_YEAR),
    }
    required = {"environmentID": st.just(environment_id), "workID": st.just(work_id)}
    spec: dict[str, Any] = draw(optional(required, others))
    return spec


def _paths(value: object, path: Place = ()) -> list[Place]:
    """Return every path inside a JSON value, except its root."""
    if isinstance(value, dict):
        members: list[tuple[str | int, object]] = list(value.items())
    elif isinstance(value, list):
        members = list(enumerate(value))
    else:
        members = []
    return [place for key, member in members for place in ((*path, key), *_paths(member, (*path, key)))]


def _holder(spec: Any, path: Place) -> Any:
    for key in path[:-1]:
        spec = spec[key]
    return spec


def _put_something_else(draw: st.DrawFn, spec: dict[str, Any], path: Place) -> None:
    long = st.sampled_from(LENGTHS).map(lambda length: "x" * length)
    wrong = st.one_of(
        st.none(),
        st.booleans(),
        st.sampled_from(NUMBERS),
        st.sampled_from(ODD_STRINGS),
        long,
        st.just([]),
        st.just([None]),
        st.just({}),
        st.just({"a": None}),
    )
    _holder(spec, path)[path[-1]] = copy.deepcopy(draw(wrong))


def _take_away(_draw: st.DrawFn, spec: dict[str, Any], path: Place) -> None:
    del _holder(spec, path)[path[-1]]


def _add_unknown(draw: st.DrawFn, spec: dict[str, Any], path: Place) -> None:
    name = draw(st.sampled_from(["unknown", "environment_id", "work_id", "name", "drain_seconds", "Sandbox", "labels"]))
    holder = _holder(spec, path)
    if isinstance(holder, dict):
        holder[name] = draw(st.one_of(st.none(), st.just("x"), st.just({})))


def _repeat(draw: st.DrawFn, spec: dict[str, Any], path: Place) -> None:
    value = _holder(spec, path)[path[-1]]
    if isinstance(value, list) and value:
        value.extend([value[0]] * draw(st.sampled_from([1, 62, 63, 64])))
    elif isinstance(value, dict) and path[-1] in {"labels", "annotations"}:
        value.update({f"more{number}": "x" for number in range(draw(st.sampled_from([62, 63, 64, 65])))})


_MUTATIONS: Final[tuple[Callable[[st.DrawFn, dict[str, Any], Place], None], ...]] = (
    _put_something_else,
    _put_something_else,
    _put_something_else,
    _take_away,
    _add_unknown,
    _repeat,
)


@st.composite
def mutated_specs(draw: st.DrawFn) -> dict[str, Any]:
    """Return specs with one to three changes, which make them invalid or keep them valid."""
    spec = copy.deepcopy(draw(specs()))
    spec.setdefault("sandbox", {"onFailure": "Restart", "maxRestarts": 1, "drainSeconds": 0, "keepFailedPod": True})
    spec.setdefault("ttlSeconds", 1)
    spec.setdefault("ttlSecondsAfterFinished", 0)
    return mutated(draw, spec)


def mutated(draw: st.DrawFn, value: dict[str, Any]) -> dict[str, Any]:
    """Change a value in one to three places, and return it."""
    for _ in range(draw(st.integers(1, 3))):
        paths = _paths(value)
        if paths:
            draw(st.sampled_from(_MUTATIONS))(draw, value, draw(st.sampled_from(paths)))
    return value


def _text(longest: int) -> st.SearchStrategy[str]:
    """Return any text that UTF-8 can encode, up to more than `longest`."""
    return st.one_of(
        st.sampled_from(ODD_STRINGS),
        st.text(st.characters(codec="utf-8"), max_size=30),
        st.sampled_from([longest - 1, longest, longest + 1, 3 * longest]).map(lambda length: "é" * length),
    )


def heartbeats() -> st.SearchStrategy[str]:
    """Return values of ``last_heartbeat``: times in every notation, none, and texts that are no times."""
    return st.one_of(
        st.sampled_from(
            [
                "",
                "2026-11-22T03:52:26.172343Z",
                "2026-11-22T03:52:26.172343+05:30",
                "2026-11-22T03:52:26.1Z",
                "2026-11-22T03:52:26Z",
                "2026-11-22 03:52:26",
                "1795319546",
                "hb-1",
                "x" * LONGEST_HEARTBEAT,
            ]
        ),
        st.text(st.characters(codec="utf-8"), max_size=40),
    )


def times() -> st.SearchStrategy[datetime]:
    """Return aware times of every year and offset that UTC can represent."""
    ends = timedelta(days=1)
    odd = timezone(timedelta(hours=-3, minutes=-31, seconds=-15))
    return st.datetimes(
        min_value=datetime.min + ends,  # noqa: DTZ901 - the time zone is drawn
        max_value=datetime.max - ends,  # noqa: DTZ901 - as above
        timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), odd]),
    )


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return None or a value."""
    return st.one_of(st.none(), values)


def sandbox_statuses() -> st.SearchStrategy[SandboxStatus]:
    """Return the statuses that a sandbox can have."""
    return st.fixed_dictionaries(
        {
            "pod_uid": st.uuids().map(str),
            "pod_name": maybe(st.sampled_from(["sandbox", "x" * 253])),
            "phase": maybe(st.one_of(st.sampled_from(["Pending", "Running", "Failed", "Unknown"]), _text(64))),
            "reason": maybe(_text(256)),
            "message": maybe(_text(1024)),
            "exit_code": maybe(st.one_of(st.integers(0, 255), st.sampled_from([-(2**31), -1, 2**31 - 1, 2**32 - 1]))),
            "finish_time": maybe(times()),
        }
    ).map(SandboxStatus.model_validate)


def conditions() -> st.SearchStrategy[list[StatusCondition]]:
    """Return lists of conditions, each type at most once."""
    one = st.fixed_dictionaries(
        {
            "type": st.sampled_from(["LeaseHeld", "SandboxReady", "Finished", "Ready", "example.com/Other"]),
            "status": st.sampled_from(ConditionStatus),
            "reason": st.from_regex(r"\A[A-Z][A-Za-z0-9]{0,40}\Z"),
            "message": _text(LONGEST_MESSAGE),
            "last_transition_time": times(),
            "observed_generation": maybe(st.integers(0, LARGEST_INTEGER)),
        }
    ).map(StatusCondition.model_validate)
    return st.lists(one, unique_by=lambda condition: condition.type, max_size=4)


def statuses() -> st.SearchStrategy[WorkLeaseStatus]:
    """Return every status that the operator may write."""
    pods = st.lists(sandbox_statuses(), unique_by=lambda pod: pod.pod_uid, max_size=3)
    many_pods = st.just([SandboxStatus(pod_uid=f"uid-{number}") for number in range(MOST_SANDBOXES + 5)])
    return st.fixed_dictionaries(
        {
            "last_heartbeat": maybe(heartbeats()),
            "state": maybe(st.one_of(st.sampled_from(["active", "stopping", "hibernating"]), _text(256))),
            "lease_extended": maybe(st.booleans()),
            "ttl_seconds": maybe(st.integers(0, LARGEST_INTEGER)),
            "granted_ttl_seconds": maybe(st.integers(1, LARGEST_INTEGER)),
            "observed_time": maybe(times()),
            "lease_expiry_time": maybe(times()),
            "claim_time": maybe(times()),
            "sandboxes": st.one_of(pods, pods, many_pods),
            "attempt": maybe(st.integers(0, 2**31 - 1)),
            "restarts": maybe(st.integers(0, 2**31 - 1)),
            "disruptions": maybe(st.integers(0, 2**31 - 1)),
            "operator": maybe(st.just("worklease-system/worklease-installation")),
            "conditions": conditions(),
            "observed_generation": maybe(st.integers(0, LARGEST_INTEGER)),
        }
    ).map(WorkLeaseStatus.model_validate)


@st.composite
def mutated_statuses(draw: st.DrawFn) -> dict[str, Any]:
    """Return statuses of another program or a newer operator: with one to three changes."""
    return mutated(draw, copy.deepcopy(draw(statuses()).model_dump(mode="json", exclude_none=True)))
