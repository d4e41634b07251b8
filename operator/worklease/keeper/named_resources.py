"""What this installation keeps, and what it leaves alone because another one keeps it.

Owns the name of this installation in each resource: it is written before anything is sent for the resource, and guarded
by the version of the resource, so of two installations one is refused. Looks at the Lease of each installation that is
named in a resource here, and takes over what it kept once it is gone. Must not decide: ``rules.installations`` does.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from worklease.api.names import PoolReference, Reference
from worklease.cluster.client import Gone, NotDone
from worklease.cluster.installation_lease import InstallationLease, Overwritten
from worklease.keeper.permission import Permission
from worklease.rules.acts import Act, Leave
from worklease.rules.backoff import backoff
from worklease.rules.buckets import bucket_of
from worklease.rules.installations import SeenInstallation, Whose, is_gone, see_installation, whose
from worklease.rules.reasons import Kind, Verdict
from worklease.rules.succession import Succession
from worklease.telemetry import About, AboutPool, LeftAlone, Publisher

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at the Leases of other installations: what one kept is taken so much later at most."""

AT_ONCE: Final = 16
"""Names that are written at once: whoever takes thousands over must not keep the API server from its other calls."""

RETRY: Final = 0.5
"""Seconds until the write of a name is repeated that failed."""

LONGEST_RETRY: Final = 10.0
"""Seconds between such repetitions at most."""

_log = logging.getLogger(__name__)


class Ownership(Protocol):
    """Says whose a resource is: ``NamedResources``."""

    def judge(self, body: Mapping[str, Any], *, is_kept: bool, is_recorded: bool) -> Whose:
        """Return whose a resource is; one that is to be named is reported once more when it is."""

    def knows(self, uid: str) -> bool:
        """Whether a resource is left alone, or is being named."""

    def succession(self, uid: str) -> Succession | None:
        """Return what is to be expected of who kept a resource before, if this installation has just named itself."""

    def leave(self, bucket: int) -> None:
        """Forget what is known of the resources of a bucket: another process of the installation holds it."""

    def forget(self, uid: str) -> None:
        """Forget a resource that does not exist any more."""


@dataclass(frozen=True, slots=True)
class _Object:
    """A resource or a pool, as its newest known version has it."""

    about: About | AboutPool
    path: str
    version: str
    named: str
    """The installation that its status names; empty if it names none."""


class NamedResources:
    """Whose each resource and each pool is.

    Args:
        lease: The Leases of installations.
        tenures: Says what this process may write now.
        clock: The monotonic clock, in seconds.
        publisher: Hears of what is left alone.
    """

    def __init__(
        self, lease: InstallationLease, tenures: Permission, clock: Callable[[], float], publisher: Publisher
    ) -> None:
        self._lease, self._tenures, self._clock, self._publisher = lease, tenures, clock, publisher
        self._own = lease.own
        self._seen: dict[str, SeenInstallation] = {}
        self._anothers: dict[str, _Object] = {}
        """What is left alone, by its uid."""
        self._told: dict[str, tuple[str, str]] = {}
        """What was said of it: the installation, and why its Lease cannot be read."""
        self._pools: dict[str, _Object] = {}
        self._ours: dict[str, str] = {}
        """The newest versions that were seen to be ours: what is older than that says nothing."""
        self._before: dict[str, Succession] = {}
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._found: Callable[[Mapping[str, Any]], None] = lambda _: None

    def serve(self, found: Callable[[Mapping[str, Any]], None]) -> None:
        """Report each resource to ``found`` once it has a name."""
        self._found = found

    # --- Resources ---------------------------------------------------------------------------------------------

    def judge(self, body: Mapping[str, Any], *, is_kept: bool, is_recorded: bool) -> Whose:
        """Return whose a resource is; one that is to be named is reported once more when it is."""
        there = _resource(body)
        verdict = self._judge(there, is_known=is_kept or is_recorded, is_over=_is_over(body))
        if verdict is Whose.OURS and not there.named and is_recorded and not is_kept:
            self._name(there, is_taken=False)  # it is kept meanwhile: an earlier version wrote no name
        return verdict

    def _judge(self, there: _Object, *, is_known: bool, is_over: bool) -> Whose:
        uid = there.about.uid
        ours = self._ours.get(uid)
        if ours is not None and (not there.named or not _is_newer(there.version, ours)):
            return Whose.OURS
        is_other_gone = is_gone(self._seen.get(there.named), self._clock())
        verdict = whose(self._own, there.named, is_known=is_known, is_over=is_over, is_other_gone=is_other_gone)
        if there.named and verdict is not Whose.OURS:
            self._anothers[uid] = there  # until this installation's name is there, the looks go on
        else:
            self._anothers.pop(uid, None)
        if verdict is Whose.OURS and there.named:
            self._ours[uid] = there.version
        else:
            self._ours.pop(uid, None)
        if verdict is Whose.TO_BE_NAMED:
            self._name(there, is_taken=True)
        return verdict

    def knows(self, uid: str) -> bool:
        """Whether a resource is left alone, or is being named."""
        return uid in self._anothers or uid in self._under_way

    def succession(self, uid: str) -> Succession | None:
        """Return what is to be expected of who kept a resource before, if this installation has just named itself."""
        return self._before.pop(uid, None)

    def leave(self, bucket: int) -> None:
        """Forget what is known of the resources of a bucket: another process of the installation holds it."""
        for uid in {*self._anothers, *self._ours, *self._before}:
            if bucket_of(uid) == bucket:
                for known in (self._anothers, self._ours, self._before):
                    known.pop(uid, None)

    def forget(self, uid: str) -> None:
        """Forget a resource or a pool that does not exist any more."""
        for known in (self._anothers, self._told, self._pools, self._ours, self._before):
            known.pop(uid, None)

    # --- Pools -------------------------------------------------------------------------------------------------

    def see_pool(self, body: Mapping[str, Any]) -> None:
        """Take over a pool as the API server has it now."""
        there = _pool(body)
        known = self._pools.get(there.about.uid)
        if known is None or _is_newer(there.version, known.version):
            self._pools[there.about.uid] = there

    def serves(self, uid: str) -> bool:
        """Whether this installation serves a pool; one that is nobody's is named, and served from then on."""
        there = self._pools.get(uid)
        return there is not None and self._judge(there, is_known=False, is_over=False) is Whose.OURS

    # --- Other installations -----------------------------------------------------------------------------------

    async def run(self, look_again: Callable[[], Awaitable[bool]]) -> None:
        """Look at the other installations until cancelled.

        ``look_again`` reports all resources once more, and returns whether it did: after a gap in which another
        installation may have taken them.
        """
        try:
            while True:
                await asyncio.sleep(LOOK_EVERY)
                due = self._lease.look_due
                if due is not None and self._clock() >= due and await look_again():
                    self._lease.looked()
                await self.look()
        finally:
            for task in tuple(self._under_way.values()):
                task.cancel()

    async def look(self) -> None:
        """Look at each installation that keeps something here, and take over what is left by one that is gone."""
        for name in {each.named for uid, each in self._anothers.items() if self._may_write(uid)}:
            began, look = self._clock(), await self._lease.look(name)
            if isinstance(look, NotDone):
                continue
            if name not in self._seen:
                _log.warning("another installation keeps resources here, which are left alone: %s", name)
            seen = self._seen[name] = see_installation(self._seen.get(name), look, began)
            left = [each for each in self._anothers.values() if each.named == name]
            if is_gone(seen, self._clock()):
                why = "has ended in order" if seen.has_ended else "is silent"
                _log.warning("taken over what another installation kept, which %s: %s count=%d", why, name, len(left))
                for there in left:
                    self._name(there, is_taken=True)
            else:
                for there in left:
                    self._tell(there, seen.hidden)

    def _tell(self, there: _Object, hidden: str) -> None:
        """Say once of an object that it is left alone, and once more if that changes whether it can be taken over."""
        uid, said = there.about.uid, (there.named, hidden)
        if self._told.get(uid) != said and self._may_write(uid):
            self._told[uid] = said
            self._publisher.publish(LeftAlone(there.about, there.named, _message(self._own, *said)))

    # --- The name ----------------------------------------------------------------------------------------------

    def _may_write(self, uid: str) -> bool:
        return self._tenures.may(Act.WRITE_RESOURCE, bucket_of(uid)) is Leave.YES

    def _name(self, there: _Object, *, is_taken: bool) -> None:
        uid = there.about.uid
        if uid not in self._under_way:
            task = asyncio.create_task(self._put_name(there, is_taken=is_taken), name=f"name in {there.path}")
            self._under_way[uid] = task
            task.add_done_callback(lambda _: self._under_way.pop(uid, None))

    async def _put_name(self, there: _Object, *, is_taken: bool) -> None:
        """Write this installation's name into an object, until it is there, or another one's is."""
        tries, uid, other = 0, there.about.uid, there.named
        while True:
            if not self._tenures.holds(bucket_of(uid)):
                return  # who holds it now finds the object by a list
            async with self._slots:
                if other and not is_gone(self._seen.get(other), self._clock()):
                    return  # the next look decides
                may_write = self._may_write(uid)
                outcome = await self._lease.put_name(there.path, there.version) if may_write else NotDone("")
                was_refused = isinstance(outcome, Overwritten)
                if isinstance(outcome, Overwritten):
                    outcome = await self._lease.read(there.path, uid)
            if isinstance(outcome, Gone):
                return
            if isinstance(outcome, NotDone):
                if may_write and tries == 0:
                    _log.warning("name of the installation not written, retrying %s: %s", there.about, outcome.message)
                await asyncio.sleep(backoff(tries, RETRY, LONGEST_RETRY) if may_write else RETRY)
                tries += may_write
                continue
            there = _read(outcome, there.about)
            if not was_refused or there.named not in {"", other}:
                break
        self._note_named(there, outcome, other, is_taken=is_taken, was_written=not was_refused)

    def _note_named(
        self, there: _Object, body: Mapping[str, Any], other: str, *, is_taken: bool, was_written: bool
    ) -> None:
        """Report an object that has a name now: ours, or that of whoever was faster."""
        uid = there.about.uid
        if there.named == self._own or was_written:
            if there.named != self._own:
                _log.warning("the CRD has no status.operator, so another installation sees nothing: update it")
            self._ours[uid] = there.version
            self._anothers.pop(uid, None)
            if is_taken:
                has_ended = other in self._seen and self._seen[other].has_ended
                now = self._clock()
                self._before[uid] = Succession(taken=None if has_ended or not other else now, begun=now)
        if isinstance(there.about, AboutPool):
            self._pools[uid] = there
        else:
            self._found(body)


def _message(own: str, other: str, hidden: str) -> str:
    said = f"Installation {other} keeps this resource, so installation {own} leaves it alone"
    if not hidden:
        return f"{said}. It takes it over when the other one is gone."
    return (
        f"{said}. It cannot see whether the other one is gone: {hidden}. If it is, for good, have the resource taken "
        "over: worklease adopt"
    )


def _resource(body: Mapping[str, Any]) -> _Object:
    metadata, spec = body["metadata"], body.get("spec") or {}
    reference = Reference(metadata["namespace"], metadata["name"], metadata["uid"])
    about = About(*reference, str(spec.get("environmentID", "")), str(spec.get("workID", "")))
    return _read(body, about)


def _pool(body: Mapping[str, Any]) -> _Object:
    metadata, spec = body["metadata"], body.get("spec") or {}
    reference = PoolReference(metadata["namespace"], metadata["name"], metadata["uid"])
    return _read(body, AboutPool(*reference, str(spec.get("environmentID", ""))))


def _read(body: Mapping[str, Any], about: About | AboutPool) -> _Object:
    kind = PoolReference if isinstance(about, AboutPool) else Reference
    named = (body.get("status") or {}).get("operator")
    path = kind(about.namespace, about.name, about.uid).path
    return _Object(about, path, str(body["metadata"].get("resourceVersion", "")), str(named or ""))


def _is_over(body: Mapping[str, Any]) -> bool:
    shown = (body.get("status") or {}).get("conditions") or ()
    return any(each.get("type") == Kind.FINISHED and each.get("status") == Verdict.TRUE for each in shown)


def _is_newer(version: str, known: str) -> bool:
    """Whether a version is newer than another one; of versions that cannot be compared, each counts as newer."""
    if version.isdecimal() and known.isdecimal():
        return int(version) > int(known)
    return version != known
