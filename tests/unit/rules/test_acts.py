"""The table of acts in the design document is the one of the code, and how a process stands to a bucket follows."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from worklease.rules.acts import CREATION_TIME, PATIENCE, QUIET, TABLE, Act, Leave, Standing, may, standing
from worklease.rules.tenure import LEASE_DURATION, Liveness, Tenure, confirm, is_unheard, needs_write, renewed

DESIGN = Path(__file__).parents[3] / "docs" / "design.md"
WORDS = {"yes": Leave.YES, "after reading": Leave.AFTER_READING, "no": Leave.NO}

VALID = renewed(Liveness(), 100.0, 100.1)
HELD = confirm(Tenure(bucket=3, epoch=1), 100.2)


def documented() -> dict[tuple[str, str], Leave]:
    """Return the table of acts of the design document, by act and standing."""
    text = DESIGN.read_text("utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text[text.index("| Act |") :].split("\n\n")[0].splitlines()
    ]
    names = [re.sub(r"`", "", cell) for cell in rows[0][1:]]
    return {
        (re.findall(r"`(\w+)`", row[0])[0], name): WORDS[cell]
        for row in rows[2:]
        for name, cell in zip(names, row[1:], strict=True)
    }


@pytest.mark.parametrize("act", Act)
@pytest.mark.parametrize("stands", Standing)
def test_each_act_has_the_leave_that_the_document_gives_it(act: Act, stands: Standing) -> None:
    assert TABLE[stands][act] is documented()[act.name, stands.name]


def test_the_document_names_nothing_else() -> None:
    assert set(documented()) == {(act.name, stands.name) for act in Act for stands in Standing}


def stands(
    tenure: Tenure, now: float, *, liveness: Liveness = VALID, at: float | None = None, reaches: bool = True
) -> Standing:
    return standing(tenure, liveness, now, hands_over_at=at, reaches=reaches)


def test_the_holder_of_a_bucket_is_valid_for_seven_seconds_after_the_last_renewal() -> None:
    assert stands(HELD, 106.9) is Standing.VALID
    assert stands(HELD, 107.0) is Standing.INVALID
    assert stands(HELD, 107.0, reaches=False) is Standing.CUT_OFF


def test_a_valid_process_is_not_the_valid_holder_of_a_bucket_that_it_has_not_written_since_a_gap() -> None:
    after = renewed(VALID, 120.0, 120.1)
    assert stands(HELD, 120.2, liveness=after) is Standing.INVALID
    assert stands(confirm(HELD, 120.2), 120.3, liveness=after) is Standing.VALID


def test_before_a_hand_over_nothing_new_begins_and_in_the_last_half_second_no_beat() -> None:
    leaving = replace(HELD, is_leaving=True)
    assert stands(leaving, 103.0, at=104.0) is Standing.LEAVING
    assert may(Act.ROUTINE_BEAT, Standing.LEAVING, VALID, 103.0) is Leave.YES
    assert may(Act.END_POD, Standing.LEAVING, VALID, 103.0) is Leave.NO
    assert stands(leaving, 104.0 - QUIET, at=104.0) is Standing.HANDED_OVER


def test_who_gets_no_answer_to_a_hand_over_beats_on_after_a_second() -> None:
    offered = replace(HELD, offered=103.0)
    assert stands(offered, 103.0 + PATIENCE - 0.1) is Standing.HANDED_OVER
    assert stands(offered, 103.0 + PATIENCE) is Standing.INVALID
    assert stands(confirm(offered, 104.1), 104.2) is Standing.VALID


def test_who_handed_a_bucket_over_beats_on_only_if_it_is_cut_off_before_the_successor_has_begun() -> None:
    given = replace(HELD, offered=103.0, given="4711")
    assert stands(given, 103.0 + PATIENCE) is Standing.HANDED_OVER
    assert stands(given, 103.0 + PATIENCE, reaches=False) is Standing.CUT_OFF
    assert stands(given, 120.0, reaches=False) is Standing.CUT_OFF
    assert not needs_write(given, VALID, 103.1), "it may not write what is another's"
    assert is_unheard(given, "4711", 103.1)
    assert not is_unheard(given, "4712", 103.1), "the successor has written it"
    assert not is_unheard(given, "4711", 103.0 + LEASE_DURATION), "a successor that is silent for so long has died"


def test_a_creation_needs_three_seconds_of_validity() -> None:
    ends = VALID.valid_until
    for act in (Act.MAKE_POD, Act.MAKE_LEASE):
        assert may(act, Standing.VALID, VALID, ends - CREATION_TIME) is Leave.YES
        assert may(act, Standing.VALID, VALID, ends - CREATION_TIME + 0.1) is Leave.NO
    assert may(Act.STOP, Standing.VALID, VALID, ends - 0.1) is Leave.YES
