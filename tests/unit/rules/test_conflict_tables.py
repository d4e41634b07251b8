"""The tables of a 412: the code and the design document have the same rows, and each row decides its case."""

import re
from pathlib import Path

import pytest

from support.lease_samples import exchange, held, refused, stamp, unanswered
from worklease.rules.answers import adoption, observe
from worklease.rules.conflicts import AFTER_HOLDING, TO_A_FIRST_CLAIM, ConflictRow
from worklease.rules.lease import Adoption, End, Lease, Trouble
from worklease.rules.outcomes import Conflicted, ListedItem

DESIGN = Path(__file__).parents[3] / "docs" / "design.md"

TABLES = {"After having held": AFTER_HOLDING, "To a first claim": TO_A_FIRST_CLAIM}
"""The tables by their head in the document."""


def written(head: str) -> list[list[str]]:
    """Return the cells of the document's table with that head, row by row."""
    lines = DESIGN.read_text("utf-8").partition(f"\n| {head} |")[2].splitlines()[2:]
    end = next(number for number, line in enumerate(lines) if not line.startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:end]]


def spans(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.mark.parametrize("head", TABLES)
def test_the_rows_of_the_code_are_those_of_the_document(head: str) -> None:
    assert [cells[0] for cells in written(head)] == [row.seen for row in TABLES[head]]


@pytest.mark.parametrize("head", TABLES)
def test_the_verdicts_of_the_code_are_those_of_the_document(head: str) -> None:
    assert [spans(cells[1])[0] for cells in written(head)] == [row.verdict for row in TABLES[head]]


@pytest.mark.parametrize("head", TABLES)
def test_the_document_names_the_functions_of_each_row(head: str) -> None:
    named = [[f"conflicts.{row.applies.__name__}", f"conflicts.{row.conclude.__name__}"] for row in TABLES[head]]
    assert [spans(cells[2]) for cells in written(head)] == named


DOUBTED = observe(held(), unanswered(130))
LOST_CLAIM = observe(Lease(), unanswered(100))
MUTE = Conflicted(exchange(160), None)
HELD_BY_ANOTHER = observe(Lease(), refused(111, stamp(105)))

AFTER_HOLDING_CASES: tuple[tuple[Lease, Conflicted, ListedItem | None], ...] = (
    (DOUBTED, refused(160, stamp(130.2)), ListedItem("stopped", stamp(90), stamp(130.2))),
    (DOUBTED, refused(160, stamp(130.2), state="stopped"), ListedItem("queued", stamp(120))),
    (DOUBTED, refused(160, stamp(130.2), state="stopped"), ListedItem("active", stamp(120))),
    (DOUBTED, MUTE, ListedItem("active", stamp(10), stamp(130.2))),
    (DOUBTED, MUTE, ListedItem("queued", None)),
    (DOUBTED, MUTE, ListedItem("active", stamp(10), stamp(400))),
    (DOUBTED, refused(160, None, state="stopped"), None),
    (DOUBTED, refused(160, stamp(130.2), state="queued"), None),
    (DOUBTED, refused(160, stamp(130.2)), ListedItem("active", stamp(10))),
    (DOUBTED, refused(160, stamp(159)), ListedItem("active", stamp(10))),
)
"""For each row a refusal that meets it, and no row above."""

FIRST_CLAIM_CASES: tuple[tuple[Lease, Conflicted, ListedItem | None], ...] = (
    (HELD_BY_ANOTHER, MUTE, ListedItem("starting", stamp(150))),
    (LOST_CLAIM, MUTE, ListedItem("stopped", stamp(10))),
    (LOST_CLAIM, refused(160, None, state="stopped"), None),
    (LOST_CLAIM, refused(160, None, state="queued"), None),
    (LOST_CLAIM, refused(160, stamp(159)), None),
    (LOST_CLAIM, refused(160, stamp(100.2)), None),
)

CASES = [
    *zip(AFTER_HOLDING, AFTER_HOLDING_CASES, strict=True),
    *zip(TO_A_FIRST_CLAIM, FIRST_CLAIM_CASES, strict=True),
]


@pytest.mark.parametrize(("row", "case"), CASES, ids=lambda part: part.seen if isinstance(part, ConflictRow) else "")
def test_each_row_gives_its_verdict(row: ConflictRow, case: tuple[Lease, Conflicted, ListedItem | None]) -> None:
    before, outcome, listed = case
    after = observe(before, outcome, listed)
    match row.verdict:
        case End():
            assert after.end is row.verdict
        case Trouble():
            assert (after.end, after.trouble, after.value) == (None, row.verdict, before.value)
        case Adoption():
            assert adoption(before, outcome, after) is row.verdict
            assert after.end is None


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_refusal_meets_a_row(table: tuple[ConflictRow, ...]) -> None:
    assert table[-1].seen == "anything else"
