"""The queue of an environment: order, polls, reclaim, lapses on time, paging, a list that lags."""

from dataclasses import replace

from support.work_items import T0, active, item
from work_api_simulator import items
from work_api_simulator.instants import MILLISECOND, SECOND
from work_api_simulator.items import ChangeKind, Item, State, StopMode
from work_api_simulator.profiles import HOSTED, Lapse, LapsedId, Profile
from work_api_simulator.refusals import RefusalKind, RequestRefusal
from work_api_simulator.store import Change, Store

ENVIRONMENT = "env_1"
RECLAIM_MS = 5000


class ObservedStore:
    """A store, and the changes that it reported."""

    def __init__(self, profile: Profile = HOSTED) -> None:
        self.changes: list[Change] = []
        self.store = Store(profile, self.changes.append)

    def add(self, new: Item, at: int = T0) -> Item:
        self.store.add(new, at)
        return new

    def queued(self, item_id: str, at: int = T0) -> Item:
        return self.add(replace(item(State.QUEUED), id=item_id, created_at=at, queued_at=at, started_at=at), at)

    def poll(self, at: int, reclaim_ms: int = RECLAIM_MS) -> str | None:
        found = self.store.poll(ENVIRONMENT, at, reclaim_ms, "worker")
        assert not isinstance(found, RequestRefusal)
        return None if found is None else found.id


def test_a_poll_hands_out_the_item_that_waits_longest() -> None:
    observed = ObservedStore()
    observed.queued("work_a")
    observed.queued("work_b")
    assert (observed.poll(T0), observed.poll(T0), observed.poll(T0)) == ("work_a", "work_b", None)


def test_a_polled_item_stays_queued_until_its_acknowledgement() -> None:
    observed = ObservedStore()
    observed.queued("work_a")
    observed.poll(T0)
    polled = observed.store.get("work_a", T0)
    assert polled is not None
    assert polled.state is State.QUEUED


def test_an_unacknowledged_item_is_handed_out_again_once_it_is_old_enough() -> None:
    observed = ObservedStore()
    observed.queued("work_a")
    observed.poll(T0)
    almost = T0 + RECLAIM_MS * MILLISECOND - 1
    assert (observed.poll(almost), observed.poll(almost + 1)) == (None, "work_a")


def test_an_acknowledged_item_is_not_reclaimed() -> None:
    observed = ObservedStore()
    observed.queued("work_a")
    observed.poll(T0)
    acknowledged = items.acknowledge(observed.queued("work_a"), T0, HOSTED)
    assert isinstance(acknowledged, Item)
    observed.store.put(acknowledged, T0)
    assert observed.poll(T0 + 1000 * SECOND, 0) is None


def test_a_lapse_happens_at_its_own_time_not_when_it_is_noticed() -> None:
    observed = ObservedStore()
    observed.add(active())
    found = observed.store.get("work_1", T0 + 400 * SECOND)
    assert found is not None
    assert (found.state, found.started_at) == (State.QUEUED, T0 + 300 * SECOND)
    assert [(change.kind, change.at) for change in observed.changes[1:]] == [(ChangeKind.LAPSED, T0 + 300 * SECOND)]


def test_a_lease_holds_to_its_last_microsecond() -> None:
    observed = ObservedStore()
    observed.add(active())
    found = observed.store.get("work_1", T0 + 300 * SECOND - 1)
    assert found is not None
    assert found.state is State.ACTIVE


def test_the_timer_lapses_without_anybody_asking() -> None:
    observed = ObservedStore()
    held = observed.add(active())
    assert observed.store.next_due() == T0 + 300 * SECOND
    later = items.beat(held, T0 + 100 * SECOND, HOSTED, expected=held.value, desired=None)
    assert not isinstance(later, RequestRefusal)
    observed.store.put(later.item, T0 + 100 * SECOND)
    observed.store.run_due(T0 + 300 * SECOND)
    assert len(observed.changes) == 1, "the lease was extended in time"
    assert observed.store.next_due() == T0 + 400 * SECOND
    observed.store.run_due(T0 + 400 * SECOND)
    assert observed.changes[-1].kind is ChangeKind.LAPSED
    assert observed.store.next_due() is None


def test_a_ttl_that_was_cut_moves_the_timer_forward() -> None:
    observed = ObservedStore()
    held = observed.add(active())
    cut = items.beat(held, T0 + SECOND, HOSTED, expected=held.value, desired=5)
    assert not isinstance(cut, RequestRefusal)
    observed.store.put(cut.item, T0 + SECOND)
    assert observed.store.next_due() == T0 + 6 * SECOND


def test_a_lapsed_item_waits_at_the_end_of_the_queue() -> None:
    observed = ObservedStore()
    observed.add(active())
    observed.queued("work_2", T0 + SECOND)
    at = T0 + 300 * SECOND
    observed.store.run_due(at)
    assert (observed.poll(at), observed.poll(at)) == ("work_2", "work_1")


def test_a_server_that_looks_only_when_polled_keeps_the_old_value_good_until_then() -> None:
    observed = ObservedStore(Profile(lapse=Lapse.AT_NEXT_POLL))
    held = observed.add(active())
    late = T0 + 1000 * SECOND
    assert observed.store.get("work_1", late) == held
    assert observed.poll(late) == "work_1"
    found = observed.store.get("work_1", late)
    assert found is not None
    assert found.value is None


def test_some_servers_offer_a_lapsed_item_under_a_new_id() -> None:
    observed = ObservedStore(Profile(lapsed_id=LapsedId.NEW))
    observed.add(active())
    late = T0 + 301 * SECOND
    gone = observed.store.find(ENVIRONMENT, "work_1", late)
    assert isinstance(gone, RequestRefusal)
    assert gone.kind is RefusalKind.NOT_FOUND
    renamed = observed.changes[-1].after
    assert renamed is not None
    assert observed.poll(late) == renamed.id != "work_1"
    assert renamed.data_id == "sesn_1"


def test_an_item_that_is_delivered_again_takes_a_new_place_in_the_queue() -> None:
    observed = ObservedStore()
    first = observed.queued("work_a")
    observed.queued("work_b")
    observed.store.change(ChangeKind.REQUEUED, first, items.requeue(first, T0 + SECOND, HOSTED), T0 + SECOND)
    assert observed.poll(T0 + SECOND) == "work_b"


def test_pages_cover_every_item_once_the_newest_first() -> None:
    observed = ObservedStore()
    for number in range(7):
        observed.queued(f"work_{number}")
    seen: list[str] = []
    page, following = observed.store.page(ENVIRONMENT, T0, 3, None)
    while following is not None:
        assert len(page) == 3
        seen += [each.id for each in page]
        page, following = observed.store.page(ENVIRONMENT, T0, 3, following)
    seen += [each.id for each in page]
    assert seen == [f"work_{number}" for number in reversed(range(7))]


def test_a_page_that_ends_with_the_last_item_has_no_successor() -> None:
    observed = ObservedStore()
    observed.queued("work_a")
    assert observed.store.page(ENVIRONMENT, T0, 1, None)[1] is None


def test_a_lagging_list_tells_the_past() -> None:
    observed = ObservedStore(Profile(list_lag_seconds=2.0))
    held = observed.add(active())
    assert observed.store.page(ENVIRONMENT, T0 + SECOND, 10, None)[0] == []
    stopped = items.after_stop(held, T0 + 3 * SECOND, HOSTED, StopMode.FORCED)
    observed.store.put(stopped, T0 + 3 * SECOND)
    assert observed.store.page(ENVIRONMENT, T0 + 4 * SECOND, 10, None)[0] == [held]
    assert observed.store.page(ENVIRONMENT, T0 + 5 * SECOND, 10, None)[0] == [stopped]


def test_the_statistics_tell_waiting_from_polled() -> None:
    observed = ObservedStore()
    observed.queued("work_a", T0)
    observed.queued("work_b", T0 + SECOND)
    observed.poll(T0 + SECOND)
    stats = observed.store.stats(ENVIRONMENT, T0 + SECOND)
    assert (stats.depth, stats.pending, stats.oldest_queued_at, stats.workers_polling) == (1, 1, T0, 1)
    assert observed.store.stats(ENVIRONMENT, T0 + 32 * SECOND).workers_polling == 0


def test_an_id_with_an_unknown_prefix_is_a_bad_parameter() -> None:
    refusal = ObservedStore().store.find(ENVIRONMENT, "job_1", T0)
    assert isinstance(refusal, RequestRefusal)
    assert refusal.kind is RefusalKind.INVALID


def test_an_item_of_another_environment_is_not_found() -> None:
    observed = ObservedStore()
    observed.queued("sesn_1")
    assert not isinstance(observed.store.find(ENVIRONMENT, "sesn_1", T0), RequestRefusal)
    refusal = observed.store.find("env_2", "sesn_1", T0)
    assert isinstance(refusal, RequestRefusal)
    assert refusal.kind is RefusalKind.NOT_FOUND
