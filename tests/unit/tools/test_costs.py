"""Where the processor time of a test run went."""

import json

from support.costs import CHILDREN, CONTROL_PLANES, OPERATORS, OTHERS, WORKERS, costs, table


def lines(*entries: dict[str, object]) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


REPORTS = lines(
    {"kind": WORKERS, "seconds": 10.0},
    {"kind": CHILDREN, "seconds": 50.0},
    {"names": ["etcd", "kube-apiserver"], "seconds": 20.0},
    {"names": ["operator-1", "operator-2"], "seconds": 12.0},
    {"names": ["operator-1"], "seconds": 3.0},
)


def test_each_kind_has_its_sum_and_what_a_reaper_reports_is_counted_once() -> None:
    assert costs(REPORTS) == {CONTROL_PLANES: 20.0, OPERATORS: 15.0, OTHERS: 15.0, WORKERS: 10.0}


def test_the_most_expensive_comes_first_and_the_sum_last() -> None:
    first, *_, last = table(costs(REPORTS))
    assert first.split() == ["20", "s", "control", "planes"]
    assert last.split() == ["60", "s", "in", "all"]


def test_a_run_without_processes_costs_what_its_tests_do() -> None:
    assert costs(lines({"kind": WORKERS, "seconds": 2.0}, {"kind": CHILDREN, "seconds": 0.0}))[WORKERS] == 2.0
