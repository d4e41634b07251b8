"""The table of reasons is complete, agrees with what it mirrors, and says what listeners do with each reason."""

import pytest

from worklease.rules.lease import End, Trouble
from worklease.rules.pods import Ailment, Cause
from worklease.rules.reasons import (
    TABLE,
    Kind,
    Level,
    Reason,
    Severity,
    Source,
    Verdict,
    level_of,
    reason_of,
    reasons_of,
    row_of,
)

SOURCES: tuple[Source, ...] = (*Trouble, *End, *Cause, *Ailment)
TOMORROW = "AReasonOfTomorrow"


def words(names: str) -> set[str]:
    return set(names.split())


def test_every_reason_has_its_row() -> None:
    assert list(TABLE) == list(Reason)
    assert all(TABLE[reason].kinds for reason in Reason)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: f"{type(source).__name__}.{source.name}")
def test_what_a_reason_mirrors_is_mirrored_once_and_by_its_own_name(source: Source) -> None:
    mirroring = [reason for reason in Reason if any(each is source for each in TABLE[reason].mirrors)]
    assert mirroring == [reason_of(source)]
    expected = "Claiming" if source is Trouble.NOT_ACKNOWLEDGED else source.value
    assert reason_of(source).value == expected


@pytest.mark.parametrize(
    ("sources", "kinds"),
    [
        (Trouble, {Kind.LEASE_HELD}),
        (End, {Kind.LEASE_HELD, Kind.FINISHED}),
        (Cause, {Kind.SANDBOX_READY}),
        (Ailment, {Kind.SANDBOX_READY}),
    ],
)
def test_a_mirroring_reason_belongs_to_the_conditions_that_show_it(
    sources: type[Trouble | End | Cause | Ailment], kinds: set[Kind]
) -> None:
    assert all(kinds <= TABLE[reason_of(source)].kinds for source in sources)


def test_what_a_lease_may_end_with_is_final() -> None:
    assert {reason.value for reason in Reason if TABLE[reason].is_final} == {end.value for end in End}


def test_these_reasons_are_logged_as_warnings() -> None:
    assert {reason.value for reason in Reason if TABLE[reason].log is Severity.WARNING} == words(
        "Fenced Expired TakenOver Requeued NotFound Unauthorized CredentialsMissing Rejected InvalidSpec InDoubt"
        " QuotaExceeded AdmissionUnavailable CheckpointUnavailable Unreachable BudgetShort HeldByAnother Duplicate"
        " FencePending DeletionRefused TokenMissing AckRefused"
    )


def test_of_a_held_lease_only_these_reasons_make_no_warning_event_and_claiming_makes_none() -> None:
    of_lease = {reason.value: TABLE[reason].event for reason in reasons_of(Kind.LEASE_HELD)}
    assert {reason for reason, event in of_lease.items() if event is not Severity.WARNING} == words(
        "Renewed Claiming Acknowledging Draining Suspended Stopped Released"
    )
    assert {reason for reason, event in of_lease.items() if event is Severity.QUIET} == words("Claiming Acknowledging")


@pytest.mark.parametrize(
    ("status", "calm"),
    [
        ("True", "Renewed Draining Suspended"),
        ("False", "Claiming Acknowledging Suspended Duplicate"),
        ("Unknown", "Claiming Acknowledging Suspended Duplicate"),
    ],
)
def test_with_these_reasons_a_lease_is_in_no_trouble(status: str, calm: str) -> None:
    levels = {reason: level_of(Kind.LEASE_HELD, status, reason) for reason in (*Reason, TOMORROW)}
    assert {str(reason) for reason, level in levels.items() if level is not Level.TROUBLE} == words(calm)
    well = {str(reason) for reason, level in levels.items() if level is Level.WELL}
    assert well == ({"Renewed"} if status == "True" else set())


def test_with_these_reasons_a_sandbox_is_in_no_trouble() -> None:
    levels = {reason: level_of(Kind.SANDBOX_READY, Verdict.FALSE, reason) for reason in (*Reason, TOMORROW)}
    assert {str(reason) for reason, level in levels.items() if level is not Level.TROUBLE} == words(
        "NoPod Creating PredecessorEnding Restarting SchedulingGated Pending NotReady Running Succeeded Ending Ended"
        " VolumeBusy SessionIdle SessionEnded"
    )


def test_a_lease_that_was_stopped_or_released_or_never_ours_is_over_and_any_other_end_is_a_loss() -> None:
    levels = {end.value: row_of(end.value).level for end in End}
    over = {"Stopped", "Released", "AckRefused"}
    assert {end for end, level in levels.items() if level is Level.OVER} == over
    assert {end for end, level in levels.items() if level is Level.LOST} == set(levels) - over


def test_one_failure_shows_only_what_the_next_heartbeat_does_not_fix() -> None:
    assert {reason.value for reason in Reason if TABLE[reason].is_shown_at_once} == words(
        "Unauthorized CredentialsMissing Rejected BudgetShort"
    )


def test_for_these_reasons_the_operator_deletes_pods() -> None:
    assert {reason.value for reason in Reason if TABLE[reason].deletes_pods} == {
        *(end.value for end in End),
        *words("Draining Fenced Restarting"),
    }


def test_a_reason_of_a_newer_operator_is_trouble_and_a_warning_event() -> None:
    row = row_of(TOMORROW)
    assert (row.log, row.event, row.level, row.is_final) == (Severity.INFO, Severity.WARNING, Level.TROUBLE, False)
