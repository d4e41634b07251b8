"""One session has one sandbox of a namespace, whatever the order in which several processes make theirs.

Every interleaving is tried: of two and of three resources of a session, with crashes anywhere, creations that are
carried out late, and pods that end. Each resource does what ``pod_calls.PodCalls.make`` does, step by step.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import IntEnum, auto
from typing import Final

import pytest

from worklease.rules.claims import SandboxTurn, sandbox_turn

FIRST: Final = datetime(2026, 11, 24, tzinfo=UTC)


class At(IntEnum):
    """What a resource does next."""

    LOOK = auto()
    SHOW = auto()
    LIST = auto()
    LOOK_AGAIN = auto()
    SEND = auto()
    AWAIT = auto()
    END_TURN = auto()
    RUNS = auto()
    OVER = auto()


@dataclass(frozen=True)
class World:
    """What each resource does next, and what the API server has."""

    at: tuple[At, ...]
    shown: frozenset[int] = frozenset()
    """Who has the label."""
    sent: frozenset[int] = frozenset()
    """Whose creation may be carried out at any time."""
    pods: frozenset[int] = frozenset()
    """Who has a pod that is at work."""
    known: frozenset[int] = frozenset()
    """Who knows that it has the turn: its process has not crashed since."""

    def do(self, who: int, at: At, **changes: frozenset[int]) -> "World":
        return replace(self, at=(*self.at[:who], at, *self.at[who + 1 :]), **changes)


def told(who: int) -> tuple[datetime, str]:
    return FIRST + timedelta(seconds=who), f"uid-{who}"


def list_makers(world: World, who: int, *, gives_way_at_once: bool) -> World:
    others = [told(each) for each in world.shown - {who} if world.at[each] is not At.OVER]
    match sandbox_turn(told(who), others):
        case SandboxTurn.MAKE:
            return world.do(who, At.LOOK_AGAIN, known=world.known | {who})
        case SandboxTurn.GIVE_WAY if who not in world.sent or gives_way_at_once:
            return world.do(who, At.LOOK, shown=world.shown - {who})
        case SandboxTurn.WAIT | SandboxTurn.GIVE_WAY:
            return world.do(who, At.LOOK)  # what an earlier process sent may be carried out yet


def step(world: World, who: int, *, has_turns: bool, gives_way_at_once: bool) -> World | None:
    """Return the world after a resource's next step; None: it waits for something."""
    is_taken = bool(world.pods - {who})
    match world.at[who]:
        case At.LOOK if who in world.pods:
            return world.do(who, At.END_TURN)  # after a crash it is found made
        case At.LOOK:
            go_on = At.SHOW if has_turns and who not in world.known else At.SEND
            return None if is_taken else world.do(who, go_on)
        case At.SHOW:
            return world.do(who, At.LIST, shown=world.shown | {who})
        case At.LIST:
            return list_makers(world, who, gives_way_at_once=gives_way_at_once)
        case At.LOOK_AGAIN:
            back = world.do(who, At.LOOK, shown=world.shown - {who}, known=world.known - {who})
            return back if is_taken else world.do(who, At.SEND)
        case At.SEND:
            is_there = who in world.pods  # its name is taken: a second one of it is refused
            return world.do(who, At.AWAIT, sent=world.sent if is_there else world.sent | {who})
        case At.AWAIT:
            return world.do(who, At.END_TURN) if who in world.pods else None
        case At.END_TURN:
            return world.do(who, At.RUNS, shown=world.shown - {who}, known=world.known - {who})
        case At.RUNS:
            return world.do(who, At.OVER, pods=world.pods - {who})
        case At.OVER:
            return None


def after(world: World, *, has_turns: bool, gives_way_at_once: bool) -> Iterator[World]:
    """Yield each world that may come next."""
    for who, at in enumerate(world.at):
        following = step(world, who, has_turns=has_turns, gives_way_at_once=gives_way_at_once)
        if following is not None:
            yield following
        if who in world.sent:
            yield replace(world, sent=world.sent - {who}, pods=world.pods | {who})
            yield replace(world, sent=world.sent - {who})  # it is never carried out
        if at is At.AWAIT:
            yield world.do(who, At.LOOK)  # no answer comes
        if at not in {At.RUNS, At.OVER}:
            yield world.do(who, At.LOOK, known=world.known - {who})  # a crash: another process begins again


def reachable(number: int, *, has_turns: bool = True, gives_way_at_once: bool = False) -> dict[World, list[World]]:
    begin = World((At.LOOK,) * number)
    found: dict[World, list[World]] = {}
    waiting = [begin]
    while waiting:
        world = waiting.pop()
        if world not in found:
            found[world] = list(after(world, has_turns=has_turns, gives_way_at_once=gives_way_at_once))
            waiting.extend(found[world])
    return found


@pytest.mark.parametrize("number", [2, 3])
def test_a_session_never_has_two_sandboxes_whatever_the_order(number: int) -> None:
    worlds = reachable(number)
    assert [world for world in worlds if len(world.pods) > 1] == []
    assert any(world.at == (At.OVER,) * number for world in worlds)


def test_without_turns_two_that_list_at_one_moment_make_two() -> None:
    assert any(len(world.pods) > 1 for world in reachable(2, has_turns=False))


def test_who_gives_way_while_an_earlier_process_may_have_sent_its_creation_would_make_a_second() -> None:
    assert any(len(world.pods) > 1 for world in reachable(2, gives_way_at_once=True))


def test_nobody_waits_for_ever() -> None:
    worlds = reachable(3)
    ends = {world for world in worlds if world.at == (At.OVER,) * 3}
    leads_there = set(ends)
    while True:
        more = {world for world, following in worlds.items() if leads_there.intersection(following)} - leads_there
        if not more:
            break
        leads_there |= more
    assert len(leads_there) == len(worlds)
