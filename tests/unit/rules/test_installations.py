"""An installation is left what it keeps until it is gone, and it is gone only when none of its processes can act."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worklease.rules.installations import (
    FRESH,
    GONE_AFTER,
    LONGEST_GAP,
    RENEW_EVERY,
    SETTLED,
    LeaseAbsent,
    LeaseFound,
    LeaseHidden,
    SeenInstallation,
    Whose,
    installation_in,
    is_gap,
    is_gone,
    namespace_of,
    see_installation,
    whose,
)
from worklease.rules.takes import LONGEST_GLANCE
from worklease.rules.tenure import CALL_TIMEOUT, RENEWAL_TIMEOUT, VALIDITY, Liveness, is_valid, renewed

OWN, OTHER = installation_in("mine"), installation_in("theirs")
FOUND = LeaseFound("1", has_ended=False)


def seen_for(seconds: float, look: LeaseFound | LeaseAbsent = FOUND) -> SeenInstallation:
    seen = see_installation(None, look, 100.0)
    for second in range(1, int(seconds) + 1):
        seen = see_installation(seen, look, 100.0 + second)
    return seen


# --- Whose a resource is -------------------------------------------------------------------------------------------


KNOWN, OVER, GONE = "known", "over", "gone"


@pytest.mark.parametrize(
    ("named", "so", "verdict"),
    [
        (OWN, set(), Whose.OURS),
        (OTHER, set(), Whose.ANOTHERS),
        (OTHER, {KNOWN}, Whose.ANOTHERS),
        (OTHER, {OVER}, Whose.ANOTHERS),
        (OTHER, {KNOWN, GONE}, Whose.TO_BE_NAMED),
        ("", set(), Whose.TO_BE_NAMED),
        ("", {KNOWN}, Whose.OURS),
        ("", {OVER}, Whose.OURS),
    ],
)
def test_a_resource_is_of_whoever_it_names_and_of_nobody_before_that(named: str, so: set[str], verdict: Whose) -> None:
    assert whose(OWN, named, is_known=KNOWN in so, is_over=OVER in so, is_other_gone=GONE in so) is verdict


def test_an_installation_is_named_by_the_lease_that_shows_it_alive() -> None:
    assert OTHER == "theirs/worklease-installation"
    assert namespace_of(OTHER) == "theirs"
    assert {namespace_of(each) for each in ("", "theirs", "theirs/x", "a/../b/worklease-installation")} == {None}


# --- When it is gone -----------------------------------------------------------------------------------------------


def test_an_installation_is_gone_after_fifteen_seconds_without_a_change() -> None:
    assert not is_gone(seen_for(14), 114.0)
    assert is_gone(seen_for(15), 115.0)


def test_one_that_ended_in_order_is_gone_at_once() -> None:
    assert is_gone(seen_for(0, LeaseFound("1", has_ended=True)), 100.0)


def test_a_renewal_begins_the_time_again() -> None:
    assert not is_gone(see_installation(seen_for(14), LeaseFound("2", has_ended=False), 115.0), 115.0)


def test_a_lease_that_is_gone_counts_as_unchanged_because_who_lives_makes_it_again() -> None:
    assert is_gone(see_installation(seen_for(14), LeaseAbsent(), 115.0), 115.0)
    assert not is_gone(seen_for(14, LeaseAbsent()), 114.0)


def test_of_one_whose_lease_may_not_be_read_nothing_is_concluded() -> None:
    hidden = see_installation(seen_for(60), LeaseHidden("no right"), 161.0)
    assert not is_gone(hidden, 161.0)
    assert not is_gone(see_installation(hidden, FOUND, 162.0), 162.0), "the time begins when it can be read again"


def test_time_in_which_nobody_could_look_does_not_count() -> None:
    blind = see_installation(seen_for(5), FOUND, 200.0)
    assert blind.since == 200.0 - 5.0 - LONGEST_GLANCE
    assert not is_gone(blind, 200.0)


def test_a_look_counts_only_for_a_moment() -> None:
    assert is_gone(seen_for(15), 115.0 + FRESH)
    assert not is_gone(seen_for(15), 115.1 + FRESH)
    assert not is_gone(None, 115.0)


def test_the_times_leave_a_call_of_a_valid_process_room() -> None:
    assert VALIDITY + RENEW_EVERY + CALL_TIMEOUT <= LONGEST_GAP
    assert LONGEST_GAP + CALL_TIMEOUT <= GONE_AFTER
    assert not is_gap(None, 1000.0), "a process that begins has kept nothing yet"
    assert not is_gap(100.0, 100.0 + LONGEST_GAP)
    assert is_gap(100.0, 100.1 + LONGEST_GAP)


# --- Two of them ---------------------------------------------------------------------------------------------------


@dataclass
class Owner:
    """The only process of an installation: it renews its two Leases, and looks again after a gap."""

    name: str = OTHER
    liveness: Liveness = field(default_factory=Liveness)
    installation: float = 0.0
    resumed: float | None = None

    def renew(self, sent: float, took: float, *, is_answered: bool) -> bool:
        """Renew both Leases, and return whether that of the installation was written."""
        is_due = sent >= self.installation + RENEW_EVERY
        if not is_answered:
            return is_due
        if is_due:
            if is_gap(self.installation, sent):
                self.resumed = sent + took
            self.installation = sent
        if self.resumed is None:
            self.liveness = renewed(self.liveness, sent, sent + took)
        return is_due

    def look_again(self, now: float, named: str) -> None:
        """Look whose the resource is, once nobody's write is under way."""
        if self.resumed is not None and now >= self.resumed + SETTLED:
            self.name, self.resumed = named, None


@dataclass(frozen=True)
class Second:
    """What happens in one second: of the owner's renewal, of the other's look, and of its write."""

    is_awake: bool
    reaches: bool
    is_answered: bool
    took: float
    looks: bool
    writes_after: float


SECONDS = st.builds(
    Second,
    is_awake=st.sampled_from([True, True, True, False]),
    reaches=st.sampled_from([True, True, False]),
    is_answered=st.booleans(),
    took=st.floats(0.0, RENEWAL_TIMEOUT),
    looks=st.sampled_from([True, True, True, False]),
    writes_after=st.floats(0.0, FRESH + CALL_TIMEOUT),
)
STRETCHES = st.lists(st.tuples(SECONDS, st.integers(1, 20)), min_size=2, max_size=12)


@given(STRETCHES)
def test_two_installations_never_act_for_one_resource(stretches: list[tuple[Second, int]]) -> None:
    owner, seen, version, named = Owner(), None, 1, OTHER
    written: float | None = None
    now = 0.0
    for second, count in stretches:
        for _ in range(count):
            now += 1.0
            if second.is_awake and (now % 2.0 == 0.0) and second.reaches:
                version += owner.renew(now, second.took, is_answered=second.is_answered)
            if second.is_awake and second.reaches:
                owner.look_again(now, named)
            if second.looks and named == OTHER and written is None:
                seen = see_installation(seen, LeaseFound(str(version), has_ended=False), now)
                if is_gone(seen, now):
                    written = now + second.writes_after
            if written is not None and written <= now:
                named, written = OWN, None
            if named == OWN and owner.name == OTHER:
                assert not is_valid(owner.liveness, now), "it may not act for what another one has taken"
