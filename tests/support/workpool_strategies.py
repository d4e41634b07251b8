"""Hypothesis strategies for WorkPool specs and statuses: valid ones, and ones with mistakes.

This module owns what generated pools look like; what they share with WorkLeases comes from `worklease_strategies`.
"""

import copy
from typing import Any

from hypothesis import strategies as st

from support.worklease_strategies import conditions, identifiers, maybe, mutated, optional, sandboxes, times
from worklease.api.models import A_DAY, A_YEAR, LARGEST_INTEGER
from worklease.api.names import WORK_LABEL
from worklease.api.pool_models import BreakerStatus, QueueStatus, WorkPoolStatus


def _lease_specs(environment_id: str) -> st.SearchStrategy[dict[str, Any]]:
    return optional(
        {},
        {
            "ttlSeconds": st.integers(1, A_DAY),
            "heartbeat": optional({}, {"mode": st.sampled_from(["Operator", "Suspended"])}),
            "sandbox": sandboxes(environment_id, "none").map(_without_work_label),
            "deletionPolicy": st.sampled_from(["Stop", "Release"]),
            "ttlSecondsAfterFinished": st.integers(0, A_YEAR),
        },
    )


def _without_work_label(sandbox: dict[str, Any]) -> dict[str, Any]:
    """Take away the label of an item: a pool's template is for many."""
    sandbox.get("template", {}).get("metadata", {}).get("labels", {}).pop(WORK_LABEL, None)
    return sandbox


def _lease_metadata() -> st.SearchStrategy[dict[str, Any]]:
    labels = st.dictionaries(st.sampled_from(["app", "example.com/team"]), st.sampled_from(["", "a", "x" * 63]))
    annotations = st.dictionaries(st.sampled_from(["note", "example.com/x"]), st.sampled_from(["", "é", "x" * 300]))
    return optional({}, {"labels": labels, "annotations": annotations})


@st.composite
def pool_specs(draw: st.DrawFn) -> dict[str, Any]:
    """Return valid specs as a user writes them, with or without the fields that have defaults."""
    environment_id = draw(identifiers())
    limits = {
        "deliveriesPerSession": st.integers(1, 1000),
        "failuresBeforePause": st.integers(1, 1000),
        "pauseSeconds": st.integers(1, 900),
    }
    fields: dict[str, st.SearchStrategy[Any]] = {
        "credentialsSecretRef": st.fixed_dictionaries({"name": st.sampled_from(["a", "my-key.v1", "x" * 253])}),
        "suspend": st.booleans(),
        "requireToken": st.booleans(),
        "deletionPolicy": st.sampled_from(["Release", "Stop"]),
        "limits": optional({}, dict(limits)),
        "leaseTemplate": optional({}, {"metadata": _lease_metadata(), "spec": _lease_specs(environment_id)}),
    }
    required = {"environmentID": st.just(environment_id), "maxConcurrent": st.integers(0, 1000)}
    spec: dict[str, Any] = draw(optional(required, fields))
    return spec


@st.composite
def mutated_pool_specs(draw: st.DrawFn) -> dict[str, Any]:
    """Return specs with one to three changes, which make them invalid or keep them valid."""
    spec = copy.deepcopy(draw(pool_specs()))
    spec.setdefault("limits", {"deliveriesPerSession": 1, "failuresBeforePause": 1, "pauseSeconds": 1})
    template = spec.setdefault("leaseTemplate", {})
    template.setdefault("metadata", {"labels": {"app": "a"}, "annotations": {}})
    template.setdefault("spec", {"ttlSeconds": 1, "sandbox": {"maxRestarts": 1, "drainSeconds": 0}})
    return mutated(draw, spec)


def pool_statuses() -> st.SearchStrategy[WorkPoolStatus]:
    """Return every status that the operator may write."""
    counts, numbers = maybe(st.integers(0, 2**31 - 1)), maybe(st.integers(0, LARGEST_INTEGER))
    queues = st.fixed_dictionaries(
        {
            "depth": numbers,
            "pending": numbers,
            "oldest_queued_time": maybe(times()),
            "workers_polling": numbers,
            "observed_time": maybe(times()),
        }
    ).map(QueueStatus.model_validate)
    breakers = st.fixed_dictionaries(
        {"open_until_time": maybe(times()), "pause_seconds": maybe(st.integers(0, 900)), "failures": counts}
    ).map(BreakerStatus.model_validate)
    return st.fixed_dictionaries(
        {
            "active": counts,
            "claiming": counts,
            "starting": counts,
            "running": counts,
            "ending": counts,
            "queue": maybe(queues),
            "breaker": maybe(breakers),
            "last_poll_time": maybe(times()),
            "last_item_time": maybe(times()),
            "selector": maybe(st.sampled_from(["worklease.dev/pool=agents", "x" * 256])),
            "conditions": conditions(),
            "observed_generation": numbers,
        }
    ).map(WorkPoolStatus.model_validate)


@st.composite
def mutated_pool_statuses(draw: st.DrawFn) -> dict[str, Any]:
    """Return statuses of another program or a newer operator: with one to three changes."""
    return mutated(draw, copy.deepcopy(draw(pool_statuses()).model_dump(mode="json", exclude_none=True)))
