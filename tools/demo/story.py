"""The story: five chapters, each with its claims.

Owns what happens, in which order, and how long each step may take. Must not decide whether a claim is so (`claims`),
nor how anything looks (`screen`).
"""

import time
from dataclasses import dataclass

from controlplane import DeadlineError
from demo import claims
from demo.claims import Claim
from demo.record import Record, conflicts, renewals, stop_moments
from demo.snapshot import Snapshot
from demo.stage import TTL_SECONDS
from demo.telling import Telling

ALONE, STOPPED, KEPT = "work_demo1", "work_demo2", "work_demo3"
ITEMS = (ALONE, STOPPED, KEPT)
HELD = (ALONE, KEPT)
STOPPED_POD = "sandbox-demo2"
INTERVAL_SECONDS = TTL_SECONDS / 3
LONGEST_INTERVAL = 10.0  # of the lease that asks for 30 s
CLAIM_SECONDS = 30.0  # well under a second; a busy machine may take its time
SLACK_SECONDS = 3.0  # beyond a beat's interval, for the pod's deletion and what is told of it
RESTART_SECONDS = 10.0  # the first restart comes after 2 s; a busy machine may take its time
DEAD_SECONDS = 2.0  # nobody beats: long enough to see the ages grow, short beside the TTL
# What is compared, and who is killed, is so between two beats: after the news of one, before the next is due.
AFTER_BEAT, BEFORE_BEAT = 0.3, 1.5


@dataclass(slots=True)
class Story(Telling):
    """One telling: `tell` it, then look at `claims`."""

    pid: int
    """The operator's process; another one after its crash."""
    crash: int | None = None
    """The last entry of the record before the operator crashed."""

    def tell(self) -> bool:
        """Tell all chapters; returns whether every claim was so."""
        for chapter in (self._claimed, self._beating, self._stopped, self._deleted, self._killed):
            try:
                chapter()
            except DeadlineError as error:
                self.judge(Claim("the next step comes in time", str(error)))
                self._explain()
                return False
            if not all(claim.holds for claim in self.claims):
                return False
        self._look_back()
        return all(claim.holds for claim in self.claims)

    def _claimed(self) -> None:
        self.screen.chapter(
            1,
            "Three work items are claimed",
            "Each WorkLease names one work item of a remote queue. The operator claims the item's lease, so that no "
            "other worker gets it, and shows it on the object.",
        )
        self.screen.command("kubectl apply -f examples/")
        self.grounds.apply_examples()
        self.until(lambda seen: claims.leases_held(seen, ITEMS).holds, CLAIM_SECONDS, "a lease for each resource")
        snapshot = self.until(_pods_run, self.grounds.starting_seconds, "running sandbox pods")
        self.screen.say(f"Pod {_kept_pod(snapshot)} was made by the operator from its resource's template.")
        self.judge(claims.leases_held(snapshot, ITEMS))
        self.judge(claims.first_beats_claim(self.simulator.record(), ITEMS))
        self.table("get", "worklease")

    def _beating(self) -> None:
        self.screen.chapter(
            2,
            "The leases are kept",
            f"A lease lasts {TTL_SECONDS} s here ({LONGEST_INTERVAL * 3:g} s where the resource asks for it) and is "
            "renewed at a third of that. Each beat must carry the server's last value: whoever cannot name it has "
            "lost the lease. The pods know nothing of it.",
        )
        self.until(lambda _: _renewed(self.simulator.record()), LONGEST_INTERVAL + SLACK_SECONDS, "a beat of each")
        self.judge(claims.beaten_on_time(self.simulator.record(), ITEMS))
        snapshot = self._quiet(ITEMS)
        values = self.simulator.values()
        self.judge(claims.status_is_verbatim(snapshot, {item: values[item] for item in ITEMS}))
        self.table("get", "worklease")

    def _stopped(self) -> None:
        self.screen.chapter(
            3,
            "An item is stopped at the server",
            "Somebody ends the session. The answer to the next beat says `stopping`: the pod is asked to finish while "
            "the lease is kept, and only when the pod is gone is the stop confirmed. No sandbox runs on unseen.",
        )
        self.screen.command(self.simulator.stop_line(STOPPED))
        before, began = self.stage.look(self.grounds), time.monotonic()
        self.simulator.stop(STOPPED)
        limit = INTERVAL_SECONDS + SLACK_SECONDS + self.grounds.ending_seconds
        self.until(lambda seen: seen.pod(STOPPED_POD) is None, 2 * limit, f"the end of pod {STOPPED_POD}")
        taken = time.monotonic() - began
        snapshot = self.until(
            lambda seen: claims.finished(seen, STOPPED).holds, SLACK_SECONDS + INTERVAL_SECONDS, "Finished=True"
        )
        record = self.simulator.record()
        if moments := stop_moments(record, STOPPED):
            self.screen.say(
                f"The next beat came {moments.heard:.1f} s after the stop and heard of it; {moments.confirmed:.2f} s "
                "after that the pod was gone and the stop confirmed."
            )
        self.judge(claims.pod_gone(snapshot, STOPPED_POD))
        self.judge(claims.ended_within(taken, limit))
        self.judge(claims.stop_confirmed(record, STOPPED))
        self.judge(claims.finished(snapshot, STOPPED))
        self.judge(claims.pods_untouched(before, snapshot, [_kept_pod(snapshot)]))
        self.table("get", "worklease")

    def _deleted(self) -> None:
        self.screen.chapter(
            4,
            "A sandbox is lost",
            "Somebody deletes a pod; an eviction or a crash would do the same. The lease is kept meanwhile, and the "
            "operator makes another pod under it, since the resource says `onFailure: Restart`.",
        )
        before = self.stage.look(self.grounds)
        lost = _kept_pod(before)
        self.screen.command(f"kubectl delete pod {lost}")
        self.grounds.kubectl("delete", "pod", lost, "--wait=false", f"--namespace={self.grounds.namespace}")
        limit = RESTART_SECONDS + self.grounds.ending_seconds + self.grounds.starting_seconds
        snapshot = self.until(lambda seen: claims.made_anew(before, seen, KEPT).holds, limit, "another sandbox pod")
        self.judge(claims.made_anew(before, snapshot, KEPT))
        self.judge(claims.first_beats_claim(self.simulator.record(), ITEMS))
        self.table("get", "worklease")

    def _killed(self) -> None:
        self.screen.chapter(
            5,
            "The operator crashes",
            "kill -9, and nobody beats. A new process goes on from the values that the old one saved: it claims "
            "nothing anew, and no pod notices. Where the very last value was not saved, the server answers 412 and "
            "names it, and the operator can tell that it came of its own beat.",
        )
        before = self._quiet(HELD)
        self.stage.kill_operator()
        self.crash = seq = self.simulator.record()[-1].seq
        self.screen.say("The operator is dead; the ages grow.")
        died = time.monotonic()
        self.until(lambda _: time.monotonic() - died > DEAD_SECONDS, 2 * DEAD_SECONDS, "two seconds")
        self.pid = self.stage.start_operator(self.grounds, self.simulator)
        self.screen.say(f"A new one has started as process {self.pid}, {time.monotonic() - died:.1f} s after the kill.")
        self.until(
            lambda _: claims.beaten_since(self.simulator.record(), seq, HELD).holds,
            LONGEST_INTERVAL + SLACK_SECONDS,
            "a beat of each lease by the new process",
        )
        record = self.simulator.record()
        if refused := conflicts(record, seq):
            self.screen.say(f"This time a 412 came first for {' and '.join(refused)}; the next beat was accepted.")
        self.judge(claims.beaten_since(record, seq, HELD))
        snapshot = self._quiet(HELD)
        self.judge(claims.leases_held(snapshot, HELD))
        self.judge(claims.pods_untouched(before, snapshot, [_kept_pod(snapshot)]))
        self.table("get", "worklease")

    def _look_back(self) -> None:
        self.screen.say("")
        self.screen.say("What the server has recorded of all this:")
        for claim in self._throughout():
            self.judge(claim)
        self.judge(claims.silent_after_end(self.simulator.record(), STOPPED))

    def _explain(self) -> None:
        """Judge what most often keeps a step from coming."""
        for claim in self._throughout():
            if not claim.holds:
                self.judge(claim)

    def _throughout(self) -> tuple[Claim, ...]:
        """What must be so at any time, by the server's record."""
        record = self.simulator.record()
        crash = record[-1].seq if self.crash is None else self.crash
        return (
            claims.one_chain(record),
            claims.never_refused(record, crash),
            claims.refusals_were_read(record, crash),
            claims.never_lapsed(record),
        )

    def _quiet(self, items: tuple[str, ...]) -> Snapshot:
        """Wait for a moment in which status and server agree and no beat is under way or due."""

        def between_beats(snapshot: Snapshot) -> bool:
            values = self.simulator.values()
            agreed = claims.status_is_verbatim(snapshot, {item: values[item] for item in items}).holds
            return agreed and all(self._rests(snapshot, item) for item in items)

        return self.until(between_beats, 2 * LONGEST_INTERVAL, "a status that shows the server's last values")

    def _rests(self, snapshot: Snapshot, item: str) -> bool:
        lease = snapshot.lease(item)
        latest = renewals(self.simulator.record(), item)[-1].at
        if lease is None or lease.ttl_seconds is None or latest is None:
            return False
        return AFTER_BEAT < time.monotonic() - latest < lease.ttl_seconds / claims.INTERVAL_SHARE - BEFORE_BEAT


def _renewed(record: Record) -> bool:
    """Whether each lease has been renewed after its claim."""
    return all(len(renewals(record, item)) > 1 for item in ITEMS)


def _pods_run(snapshot: Snapshot) -> bool:
    pods = [snapshot.pod(name) for name in (STOPPED_POD, _kept_pod(snapshot))]
    return all(pod is not None and pod.status == "Running" for pod in pods)


def _kept_pod(snapshot: Snapshot) -> str:
    """Name the pod that the operator made."""
    lease = snapshot.lease(KEPT)
    return lease.sandbox if lease is not None else ""
