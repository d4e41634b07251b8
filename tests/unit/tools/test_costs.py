import json

from support.costs import CHILDREN, CONTROL_PLANES, OPERATORS, OTHERS, SIMULATORS, TESTS, WORKER, costs, table


def lines(*entries: object) -> str:
    return "\n".join(map(json.dumps, entries))


REPORTS = lines(
    {"names": ["etcd", "kube-apiserver"], "seconds": 20.0},
    {"kind": OPERATORS, "seconds": 15.0, "test": "test_a"},
    {"kind": SIMULATORS, "seconds": 5.0, "test": "test_a"},
    {"test": "test_a", "seconds": 1.0},
    {"names": ["prometheus"], "seconds": 2.0},
    {"test": "test_b", "seconds": 2.0},
    {"kind": WORKER, "seconds": 8.0, "test": ""},
    {"kind": WORKER, "seconds": 1.0, "test": ""},
    {"kind": TESTS, "seconds": 1.0, "test": ""},
    {"kind": CHILDREN, "seconds": 56.0, "test": ""},
)


def test_the_time_of_each_kind_is_counted_once() -> None:
    kinds, _ = costs(REPORTS)
    assert kinds == {CONTROL_PLANES: 20.0, OPERATORS: 15.0, TESTS: 10.0, OTHERS: 7.0, SIMULATORS: 5.0}
    assert next(iter(kinds)) == CONTROL_PLANES


def test_a_test_costs_what_it_and_its_operators_and_simulators_use() -> None:
    _, tests = costs(REPORTS)
    assert tests == {"test_a": 21.0, "test_b": 2.0}


def test_the_table_shows_the_sum_and_the_most_expensive_test() -> None:
    written = list(table(*costs(REPORTS)))
    assert "57 s  in all" in written[5]
    assert written[-2].split() == ["21.0", "s", "test_a"]
