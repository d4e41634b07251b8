"""Where the processor time of a test run went: the tests, the operators, the control planes, and all other programs.

Owns the measuring and its table, so that whoever adds a test sees its price. Every worker of the run reports what it
used by itself and what its children used; each reaper reports the processes that it started.
"""

import json
import os
import resource
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

REPORTS: Final = "TEST_RUN_CPU_REPORTS"
"""The environment variable that names the file to which reapers and workers report. Not one of `WORKLEASE_...`: the
operator refuses a variable of that kind which is no setting."""

CONTROL_PLANES: Final = "control planes"
OPERATORS: Final = "operators"
WORKERS: Final = "tests"
CHILDREN: Final = "children"
OTHERS: Final = "simulators, kubectl, helm and others"


def report(kind: str, seconds: float) -> None:
    """Append a line to the reports of this test run, if there are any."""
    if (path := os.environ.get(REPORTS)) is not None:
        with Path(path).open("a", encoding="utf-8") as reports:
            reports.write(json.dumps({"kind": kind, "seconds": seconds}) + "\n")


def report_this_process() -> None:
    """Report the processor time of this worker, and of all children that it has waited for."""
    for kind, who in ((WORKERS, resource.RUSAGE_SELF), (CHILDREN, resource.RUSAGE_CHILDREN)):
        used = resource.getrusage(who)
        report(kind, used.ru_utime + used.ru_stime)


def costs(reports: str) -> Mapping[str, float]:
    """Return the processor seconds of each kind, the most expensive first."""
    sums: defaultdict[str, float] = defaultdict(float)
    for line in reports.splitlines():
        entry = json.loads(line)
        sums[_kind(entry)] += entry["seconds"]
    # A worker waits for its reapers, whose processes are reported by themselves.
    sums[OTHERS] = max(0.0, sums.pop(CHILDREN, 0.0) - sums[OPERATORS] - sums[CONTROL_PLANES])
    return dict(sorted(sums.items(), key=lambda each: -each[1]))


def _kind(entry: Mapping[str, object]) -> str:
    """Return the kind of a report; a reaper names the processes that it started."""
    names = entry.get("names")
    if not isinstance(names, list):
        return str(entry["kind"])
    return CONTROL_PLANES if "etcd" in names else OPERATORS


def table(used: Mapping[str, float]) -> Iterator[str]:
    """Write the table, a line each."""
    for kind, seconds in used.items():
        yield f"{seconds:8.0f} s  {kind}"
    yield f"{sum(used.values()):8.0f} s  in all"
