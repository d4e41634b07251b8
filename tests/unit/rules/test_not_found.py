"""A 404 to a held lease ends it only where nothing but the item's end explains it."""

from dataclasses import replace

import pytest

from support.lease_samples import answered, exchange, held, refused, stamp
from worklease.rules.answers import is_doubtful, observe
from worklease.rules.beats import Rest, decide
from worklease.rules.deadlines import timeout
from worklease.rules.lease import End, Lease, Trouble
from worklease.rules.outcomes import ListAnswer, ListedItem, ListNotRead, ListRefused, Missing, NoKeyForList, NotListed

KEY, OTHER_KEY = 1, 2


def missing(sent: float, key: int = KEY) -> Missing:
    return Missing(replace(exchange(sent), key=key), "the Work API answered 404 (no such item)")


def held_with(key: int) -> Lease:
    accepted = answered(130)
    return observe(held(), replace(accepted, exchange=replace(accepted.exchange, key=key)))


def test_an_item_that_the_list_does_not_have_either_is_not_found_for_good() -> None:
    assert is_doubtful(held(), missing(130))
    lease = observe(held(), missing(130), NotListed())
    assert lease.end is End.NOT_FOUND
    assert decide(lease, 131) == Rest()


@pytest.mark.parametrize("key", [KEY, OTHER_KEY])
@pytest.mark.parametrize("seen", [None, ListNotRead("no"), ListRefused("no"), ListedItem("active", stamp(90))])
def test_any_other_list_ends_nothing_however_often(seen: ListAnswer | None, key: int) -> None:
    lease = held_with(KEY)
    for at in range(140, 200, 6):
        lease = observe(lease, missing(at, key), seen)
    assert lease.held
    assert lease.due <= 194.1 + lease.ttl / 20 * 1.2, "beaten densely"


def test_a_404_beside_a_list_that_is_refused_makes_the_key_suspect() -> None:
    lease = observe(held(), missing(130), ListRefused("the Work API answered 403"))
    assert lease.trouble is Trouble.UNAUTHORIZED
    assert "put a valid key into the Secret" in lease.message


def test_a_404_for_an_item_that_is_listed_is_doubt_and_one_that_is_listed_as_stopped_is_over() -> None:
    assert observe(held(), missing(130), ListedItem("active", stamp(90))).trouble is Trouble.IN_DOUBT
    assert observe(held(), missing(130), ListedItem("stopped", stamp(90), stamp(100.05))).end is End.STOPPED


def test_without_a_key_for_the_list_a_second_404_to_a_proven_key_decides() -> None:
    lease = observe(held_with(KEY), missing(160), NoKeyForList())
    assert lease.held
    soon = observe(lease, missing(161), NoKeyForList())
    assert soon.held, "a server that is being restored may not know the item for a moment"
    late = observe(soon, missing(160.2 + timeout(lease)), NoKeyForList())
    assert late.end is End.NOT_FOUND


def test_without_a_key_for_the_list_a_key_that_renewed_nothing_ends_nothing() -> None:
    for lease, key in ((held_with(KEY), OTHER_KEY), (held_with(0), 0)):
        after = lease
        for at in range(160, 200, 8):
            after = observe(after, missing(at, key), NoKeyForList())
        assert after.held


def test_an_answer_that_knows_the_item_takes_a_404_back() -> None:
    lease = observe(held_with(KEY), missing(150), NoKeyForList())
    for known in (answered(151), refused(151, held_with(KEY).value)):
        again = observe(replace(lease, value=held_with(KEY).value), known)
        assert again.missing_since is None
