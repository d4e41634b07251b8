"""Validity ends before anybody else takes a bucket, and a gap in it must be followed by a write of the bucket."""

import math

import pytest

from worklease.rules.tenure import (
    CALL_TIMEOUT,
    LEASE_DURATION,
    RENEW_EVERY,
    RENEWAL_TIMEOUT,
    VACANT,
    VALIDITY,
    Holder,
    Liveness,
    Tenure,
    confirm,
    is_confirmed,
    is_heir,
    is_same,
    is_valid,
    needs_write,
    read_holder,
    renewed,
)

OWN = Holder("pod-uid", 1, 4711, "c0ffee")


def test_a_call_that_begins_at_the_last_valid_moment_ends_before_a_take() -> None:
    assert VALIDITY + CALL_TIMEOUT <= LEASE_DURATION


def test_two_renewals_in_a_row_may_fail() -> None:
    assert 3 * RENEW_EVERY < VALIDITY
    assert RENEWAL_TIMEOUT < RENEW_EVERY


# --- Validity ----------------------------------------------------------------------------------------------------


def test_a_process_is_not_valid_before_its_first_renewal_was_answered() -> None:
    assert not is_valid(Liveness(), 100.0)
    assert not is_valid(renewed(Liveness(), 100.0, 100.2), 100.1)
    assert is_valid(renewed(Liveness(), 100.0, 100.2), 100.2)


def test_validity_counts_from_the_sending_of_the_renewal() -> None:
    liveness = renewed(Liveness(), 100.0, 101.4)
    assert is_valid(liveness, 106.9)
    assert not is_valid(liveness, 107.0)


def test_a_renewal_whose_answer_comes_too_late_makes_nobody_valid() -> None:
    liveness = renewed(Liveness(), 100.0, 107.0)
    assert not is_valid(liveness, 107.0)


def test_renewals_in_time_leave_no_gap() -> None:
    liveness = Liveness()
    for sent in (100.0, 102.0, 108.0):
        liveness = renewed(liveness, sent, sent + 0.5)
    assert liveness.unbroken_since == 100.5
    assert is_valid(liveness, 114.9)


def test_an_answer_after_the_end_of_validity_ends_a_gap() -> None:
    liveness = renewed(renewed(Liveness(), 100.0, 100.5), 106.5, 107.0)
    assert liveness.unbroken_since == 107.0


def test_the_answer_to_an_older_renewal_changes_nothing() -> None:
    liveness = renewed(Liveness(), 102.0, 102.1)
    assert renewed(liveness, 100.0, 103.0) == liveness


# --- Tenure ------------------------------------------------------------------------------------------------------


def test_after_a_gap_a_holder_writes_its_bucket_before_it_acts() -> None:
    liveness = renewed(Liveness(), 100.0, 100.5)
    tenure = confirm(Tenure(bucket=3, epoch=1), 100.6)
    assert is_confirmed(tenure, liveness)
    assert not needs_write(tenure, liveness, 101.0)
    liveness = renewed(liveness, 120.0, 120.1)
    assert not is_confirmed(tenure, liveness)
    assert needs_write(tenure, liveness, 120.2)
    assert not needs_write(confirm(tenure, 120.2), liveness, 120.3)


def test_a_write_that_was_sent_during_the_gap_confirms_nothing() -> None:
    liveness = renewed(Liveness(), 120.0, 120.1)
    assert not is_confirmed(confirm(Tenure(bucket=3, epoch=1), 120.05), liveness)


def test_who_is_not_valid_has_no_use_for_a_write() -> None:
    assert not needs_write(Tenure(bucket=3, epoch=1), renewed(Liveness(), 100.0, 100.1), 110.0)


def test_a_hand_over_without_an_answer_is_undone_by_a_write() -> None:
    liveness = renewed(Liveness(), 100.0, 100.1)
    offered = Tenure(bucket=3, epoch=1, confirmed=101.0, offered=102.0)
    assert needs_write(offered, liveness, 103.0)
    assert is_confirmed(confirm(offered, 103.0), liveness)


def test_an_answer_to_an_older_write_takes_no_confirmation_away() -> None:
    assert confirm(Tenure(bucket=3, epoch=1, confirmed=105.0), 101.0).confirmed == 105.0
    assert Tenure(bucket=3, epoch=1).confirmed == -math.inf


def test_a_bucket_that_went_and_came_back_is_held_in_another_tenure() -> None:
    tenure = Tenure(bucket=3, epoch=5)
    assert is_same(tenure, "own", "own", 5)
    assert not is_same(tenure, "own", "own", 7)
    assert not is_same(tenure, "own", "other", 6)


# --- Names -------------------------------------------------------------------------------------------------------


def test_a_holders_name_is_read_as_it_was_written() -> None:
    assert read_holder(str(OWN)) == OWN
    assert OWN.incarnation == "1-4711-c0ffee"


@pytest.mark.parametrize("name", [VACANT, "pod-uid", "pod-uid/1", "pod-uid/1-2-XYZ!", "a/b/1-2-c"])
def test_a_name_that_this_version_does_not_know_proves_nothing(name: str) -> None:
    assert read_holder(name) is None
    assert not is_heir(OWN, name, frozenset())


def test_the_heir_of_a_dead_process_runs_in_the_same_place() -> None:
    former = Holder("pod-uid", 1, 4000, "beef")
    assert is_heir(OWN, str(former), frozenset({(1, 4711)}))
    assert not is_heir(OWN, str(former), frozenset({(1, 4000), (7, 4711)})), "it runs"
    assert not is_heir(OWN, str(Holder("other", 1, 4000, "beef")), frozenset({(1, 4711)}))


def test_nobody_is_its_own_heir() -> None:
    assert not is_heir(OWN, str(OWN), frozenset({(1, 4711)}))
