"""Where the processor time of a test run went: by kind of process, and by test.

Owns the measuring and its table, so that whoever adds a test sees its price. Each process reports what it used to one
file: the workers, the programs that they forked (``preloaded``), and the reapers of the control planes.
"""

import json
import os
import resource
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

REPORTS: Final = "TEST_RUN_CPU_REPORTS"
"""The environment variable that names the file of the reports. Not one of `WORKLEASE_...`: the operator refuses a
variable of that kind which is no setting."""

TESTS: Final = "tests"
CONTROL_PLANES: Final = "control planes"
OPERATORS: Final = "operators"
SIMULATORS: Final = "simulators"
OTHERS: Final = "kubectl, helm, demo, benchmark and others"
WORKER: Final = "worker"
CHILDREN: Final = "children"
MOST_EXPENSIVE: Final = 15
"""Tests in the table: those that one would look at first."""


def report(kind: str, seconds: float) -> None:
    """Append what was used to the reports of this test run, if there are any, with the test that runs now."""
    if (path := os.environ.get(REPORTS)) is not None:
        test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
        _append(path, {"kind": kind, "seconds": seconds, "test": test})


def report_test(test: str, seconds: float) -> None:
    """Report what a test used by its own process, and by the children that this process waited for."""
    if (path := os.environ.get(REPORTS)) is not None:
        _append(path, {"test": test, "seconds": seconds})


def _append(path: str, line: dict[str, object]) -> None:
    with Path(path).open("a", encoding="utf-8") as reports:
        reports.write(json.dumps(line) + "\n")


def report_this_process(*, is_worker: bool) -> None:
    """Report the processor time of a worker, or of the process that waited for all workers."""
    report(WORKER if is_worker else TESTS, used_by(resource.RUSAGE_SELF))
    if not is_worker:
        report(CHILDREN, used_by(resource.RUSAGE_CHILDREN))


def used_by(who: int) -> float:
    """Return the processor seconds of this process, or of the children that it has waited for."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def costs(reports: str) -> tuple[dict[str, float], dict[str, float]]:
    """Return the processor seconds of each kind, and of each test, the most expensive first."""
    kinds: defaultdict[str, float] = defaultdict(float)
    tests: defaultdict[str, float] = defaultdict(float)
    for line in reports.splitlines():
        entry: dict[str, Any] = json.loads(line)
        if (kind := _kind(entry)) is not None:
            kinds[kind] += entry["seconds"]
        if (test := entry.get("test")) and kind in (None, OPERATORS, SIMULATORS):
            tests[test] += entry["seconds"]
    # The first process waits for the workers, and they for all others.
    children = kinds.pop(CHILDREN, 0.0) - kinds[WORKER]
    kinds[TESTS] += kinds.pop(WORKER, 0.0)
    kinds[OTHERS] = max(0.0, children - kinds[CONTROL_PLANES] - kinds[OPERATORS] - kinds[SIMULATORS])
    return _by_size(kinds), _by_size(tests)


def _by_size(seconds: dict[str, float]) -> dict[str, float]:
    return dict(sorted(seconds.items(), key=lambda each: -each[1]))


def _kind(entry: dict[str, Any]) -> str | None:
    """Return the kind of a report. A reaper names its processes: only a control plane's are a kind of their own."""
    if "names" in entry:
        return CONTROL_PLANES if "etcd" in entry["names"] else None
    return entry.get("kind")


def table(kinds: dict[str, float], tests: dict[str, float]) -> Iterator[str]:
    """Write both tables, a line each."""
    for kind, seconds in kinds.items():
        yield f"{seconds:8.0f} s  {kind}"
    yield f"{sum(kinds.values()):8.0f} s  in all"
    yield "the most expensive tests, without their share of control planes that others use too:"
    for test, seconds in list(tests.items())[:MOST_EXPENSIVE]:
        yield f"{seconds:8.1f} s  {test}"
