"""The files that `make chart` generates are up to date with the chart."""

import pytest

import chart
from support.chart import objects

pytestmark = pytest.mark.usefixtures("helm")


def test_the_charts_readme_is_current() -> None:
    assert chart.README.read_text() == chart.readme(), "run make chart"


def test_every_value_is_described() -> None:
    rows = [line for line in chart.README.read_text().splitlines() if line.startswith("| ") and line.count(" | ") == 3]
    assert len(rows) > 50
    assert [row for row in rows if row.endswith("|  |")] == []


@pytest.mark.parametrize("case", chart.CASES)
def test_what_is_rendered_is_what_was_reviewed(case: str) -> None:
    assert (chart.RENDERED / f"{case}.yaml").read_text() == chart.render(case), "run make chart, and review the change"


@pytest.mark.parametrize("case", chart.CASES)
def test_helm_3_renders_the_same(case: str) -> None:
    # Empty lines between the objects do not count.
    assert objects(chart.render(case, "helm3")) == objects((chart.RENDERED / f"{case}.yaml").read_text())


def test_no_rendered_file_is_left_of_a_case_that_is_gone() -> None:
    assert {path.stem for path in chart.RENDERED.glob("*")} == set(chart.CASES)
