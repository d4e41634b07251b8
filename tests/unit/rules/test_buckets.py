"""Every process comes to the same even distribution of the buckets, and few buckets move when one comes or goes."""

from collections import Counter

import pytest

from worklease.rules.buckets import BUCKETS, bucket_of, distribute, rank

NAMES = [f"pod-{number}/1-{number}-abc" for number in range(20)]


def test_a_resources_bucket_is_the_one_of_its_record_today() -> None:
    known = {"3f0c8b1e-5d7c-4a52-9d0e-0d6a6a4c1b11": 15, "resource": 6, "": 0}
    assert {uid: bucket_of(uid) for uid in known} == known


def test_the_uids_of_a_fleet_are_spread_over_all_buckets() -> None:
    counts = Counter(bucket_of(f"00000000-0000-4000-8000-{number:012}") for number in range(16_000))
    assert len(counts) == BUCKETS
    assert max(counts.values()) < 1.2 * min(counts.values())


@pytest.mark.parametrize("number", range(1, 21))
def test_no_process_has_more_than_one_bucket_more_than_another(number: int) -> None:
    held = Counter(distribute(NAMES[:number]).values())
    counts = [held[name] for name in NAMES[:number]]
    assert sum(counts) == BUCKETS
    assert max(counts) - min(counts) <= 1


def test_one_process_holds_all_buckets_and_none_holds_none() -> None:
    assert distribute(["one"]) == dict.fromkeys(range(BUCKETS), "one")
    assert distribute([]) == {}


def test_the_order_in_which_processes_are_named_does_not_matter() -> None:
    assert distribute(NAMES[:5]) == distribute(NAMES[4::-1])


def test_a_bucket_goes_to_its_best_ranked_process_that_has_room() -> None:
    preferred = distribute(NAMES[:3])
    held = Counter[str]()
    most = {name: Counter(preferred.values())[name] for name in NAMES[:3]}
    for bucket in range(BUCKETS):
        wanted = next(name for name in rank(bucket, NAMES[:3]) if held[name] < most[name])
        assert preferred[bucket] == wanted
        held[wanted] += 1


@pytest.mark.parametrize("number", range(1, 8))
def test_few_buckets_move_when_a_process_goes_beside_its_own(number: int) -> None:
    """Its own buckets must move, and the bound moves some others: together never more than a half."""
    before = distribute(NAMES[: number + 1])
    for gone in NAMES[: number + 1]:
        after = distribute(set(NAMES[: number + 1]) - {gone})
        others = [bucket for bucket, holder in before.items() if holder != gone and after[bucket] != holder]
        assert len(others) <= BUCKETS / 2
