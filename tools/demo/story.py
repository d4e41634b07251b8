"""The story: its chapters, each with its claims.

Owns what happens, in which order, and how long each step may take. Must not decide whether a claim holds (`claims`),
nor how anything looks (`screen`).
"""

import time
from dataclasses import dataclass

from controlplane import DeadlineError
from demo import claims
from demo.claims import Claim
from demo.grounds import EXAMPLES
from demo.record import Record, conflicts, renewals, stop_moments
from demo.snapshot import Snapshot
from demo.stage import TTL_SECONDS
from demo.telling import Telling
from demo.worker import ITEM, PlayedPod

ALONE, STOPPED, KEPT = "work_demo1", "work_demo2", "work_demo3"
SESSION = "sesn_hello"
POOL = ("examples/environment.yaml", "examples/pool.yaml")
PICKUP_SECONDS = 20.0  # usually two; a busy machine may need more
ITEMS = (ALONE, STOPPED, KEPT)
HELD = (ALONE, KEPT)
STOPPED_POD = "sandbox-demo2"
INTERVAL_SECONDS = TTL_SECONDS / 3
LONGEST_INTERVAL = 10.0  # of the lease that asks for 30 s
CLAIM_SECONDS = 30.0  # usually well under a second; a busy machine may need more
SLACK_SECONDS = 3.0  # beyond a beat's interval, for the pod's deletion and the status update
RESTART_SECONDS = 10.0  # the first restart comes after 2 s; a busy machine may need more
DEAD_SECONDS = 2.0  # without a beat: long enough to see the ages grow, short compared with the TTL
# Comparisons and the kill happen between two beats: after one has reached the status, before the next is due.
AFTER_BEAT, BEFORE_BEAT = 0.3, 1.5


@dataclass(slots=True)
class Story(Telling):
    """One run of the story: call `tell`, then look at `claims`."""

    pid: int
    """The operator's process id; a new one after its crash."""
    crash: int | None = None
    """The last entry of the record before the operator crashed."""

    def tell(self) -> bool:
        """Tell all chapters; return whether every claim holds."""
        chapters = [self._queued, self._claimed, self._beating, self._stopped, self._deleted, self._killed]
        if not self.grounds.runs_containers:
            chapters.append(self._worked)
        for chapter in chapters:
            try:
                chapter()
            except DeadlineError as error:
                self.judge(Claim("the next step happens in time", str(error)))
                self._explain()
                return False
            if not all(claim.holds for claim in self.claims):
                return False
        self._look_back()
        return all(claim.holds for claim in self.claims)

    def _queued(self) -> None:
        self.screen.chapter(
            1,
            "A message arrives",
            "A WorkPool names the queue of an environment and a pod template. A message to a session puts a work item "
            "into the queue. The operator polls it, stores in the cluster what its sandbox needs, acknowledges it, "
            "claims its lease, and makes the sandbox.",
        )
        self.screen.command(" ".join(["kubectl apply", *(f"-f {file}" for file in POOL)]))
        self.grounds.apply(*POOL)
        self.screen.command(self.simulator.message_line(SESSION))
        began = time.monotonic()
        self.simulator.send_message(SESSION)
        limit = PICKUP_SECONDS + self.grounds.starting_seconds
        snapshot = self.until(lambda seen: _runs(seen, SESSION), limit, "a sandbox for the session")
        pod = _pod_of(snapshot, SESSION)
        self.screen.say(f"Pod {pod} runs {time.monotonic() - began:.1f} s after the message.")
        self.judge(claims.leases_held(snapshot, [SESSION]))
        self.judge(claims.taken_in_order(self.simulator.record(), SESSION))
        self.until(lambda _: self._pool_says_so(), CLAIM_SECONDS, "the pool's count of it")
        self.table("get", "workpool")
        self.table("get", "worklease")
        self.screen.say("The worker has answered, so the sandbox ends by itself, with exit code 0:")
        self.screen.command(f"kubectl {' '.join(self.grounds.finish(pod))}")
        limit = CLAIM_SECONDS + self.grounds.ending_seconds
        snapshot = self.until(
            lambda seen: claims.finished(seen, SESSION).holds and seen.pod(pod) is None, limit, "the session's end"
        )
        self.judge(claims.pod_gone(snapshot, pod))
        self.judge(claims.stop_confirmed(self.simulator.record(), SESSION))
        self.judge(claims.finished(snapshot, SESSION))

    def _claimed(self) -> None:
        self.screen.chapter(
            2,
            "Three work items are claimed",
            "Without a pool, each WorkLease names one work item that somebody else polled. The operator claims the "
            "item's lease, so that no other worker gets the item, and shows the lease on the object.",
        )
        self.screen.command("kubectl apply -f examples/")
        self.grounds.apply(EXAMPLES)
        self.until(lambda seen: claims.leases_held(seen, ITEMS).holds, CLAIM_SECONDS, "a lease for each resource")
        snapshot = self.until(_pods_run, self.grounds.starting_seconds, "running sandbox pods")
        self.screen.say(f"The operator created pod {_kept_pod(snapshot)} from its resource's template.")
        self.judge(claims.leases_held(snapshot, ITEMS))
        self.judge(claims.first_beats_claim(self.simulator.record(), ITEMS))
        self.table("get", "worklease")

    def _beating(self) -> None:
        self.screen.chapter(
            3,
            "The leases are kept",
            f"A lease lasts {TTL_SECONDS} s here ({LONGEST_INTERVAL * 3:g} s if the resource asks for it) and is "
            "renewed at a third of that. Each beat must carry the server's last value: a worker that does not know it "
            "has lost the lease. The pods do not notice any of this.",
        )
        self.until(lambda _: _renewed(self.simulator.record()), LONGEST_INTERVAL + SLACK_SECONDS, "a beat of each")
        self.judge(claims.beaten_on_time(self.simulator.record(), ITEMS))
        snapshot = self._quiet(ITEMS)
        values = self.simulator.values()
        self.judge(claims.status_is_verbatim(snapshot, {item: values[item] for item in ITEMS}))
        self.table("get", "worklease")

    def _stopped(self) -> None:
        self.screen.chapter(
            4,
            "An item is stopped at the server",
            "Somebody ends the session. The answer to the next beat says `stopping`. The operator asks the pod to "
            "finish, keeps the lease meanwhile, and confirms the stop only when the pod is gone. No sandbox is left "
            "running.",
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
                f"The next beat came {moments.heard:.1f} s after the stop, and its answer said so. "
                f"{moments.confirmed:.2f} s later the pod was gone and the stop confirmed."
            )
        self.judge(claims.pod_gone(snapshot, STOPPED_POD))
        self.judge(claims.ended_within(taken, limit))
        self.judge(claims.stop_confirmed(record, STOPPED))
        self.judge(claims.finished(snapshot, STOPPED))
        self.judge(claims.pods_untouched(before, snapshot, [_kept_pod(snapshot)]))
        self.table("get", "worklease")

    def _deleted(self) -> None:
        self.screen.chapter(
            5,
            "A sandbox is lost",
            "Somebody deletes a pod; an eviction or a crash would have the same effect. The operator keeps the lease "
            "and creates a new pod under it, because the resource says `onFailure: Restart`.",
        )
        before = self.stage.look(self.grounds)
        lost = _kept_pod(before)
        self.screen.command(f"kubectl delete pod {lost}")
        self.grounds.kubectl("delete", "pod", lost, "--wait=false", f"--namespace={self.grounds.namespace}")
        limit = RESTART_SECONDS + self.grounds.ending_seconds + self.grounds.starting_seconds
        snapshot = self.until(
            lambda seen: claims.sandbox_replaced(before, seen, KEPT).holds, limit, "a new sandbox pod"
        )
        self.judge(claims.sandbox_replaced(before, snapshot, KEPT))
        self.judge(claims.first_beats_claim(self.simulator.record(), ITEMS))
        self.table("get", "worklease")

    def _killed(self) -> None:
        self.screen.chapter(
            6,
            "The operator crashes",
            "After kill -9, nobody sends beats. A new process continues from the values that the old one saved: it "
            "does not claim the items again, and no pod notices. If the very last value was not saved, the server "
            "answers 412 and names that value, and the operator can tell that it came from its own beat.",
        )
        before = self._quiet(HELD)
        self.stage.kill_operator()
        self.crash = seq = self.simulator.record()[-1].seq
        self.screen.say("The operator is dead. Watch the ages grow.")
        died = time.monotonic()
        self.until(lambda _: time.monotonic() - died > DEAD_SECONDS, 2 * DEAD_SECONDS, "two seconds")
        self.pid = self.stage.start_operator(self.grounds, self.simulator)
        self.screen.say(f"A new one started as process {self.pid}, {time.monotonic() - died:.1f} s after the kill.")
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

    def _worked(self) -> None:
        self.screen.chapter(
            7,
            "An unmodified worker",
            "Every worker that exists keeps its item's lease itself. With `sandbox.worker.proxy` a small proxy in the "
            "pod answers its heartbeats and its stop. Here the pod's containers are processes of this machine: "
            "`worklease proxy`, and the public SDK's own worker, with the variables that the pod gives them.",
        )
        self.screen.command("kubectl apply -f examples/worker/lease.yaml")
        pod = PlayedPod(self.stage, self.grounds, self.simulator)
        pod.ask_for_it()
        snapshot = self.until(lambda seen: _runs(seen, ITEM), self.grounds.starting_seconds, "the worker's pod")
        pod.start(_pod_of(snapshot, ITEM))
        self.judge(
            claims.tool_ran(pod.await_result(pod.use_bash("echo hello from the sandbox")), "hello from the sandbox")
        )
        self.screen.command(self.simulator.stop_line(ITEM))
        last = pod.use_bash("sleep 1; echo done before the end")
        self.simulator.stop(ITEM)
        self.screen.say(f"The operator annotated the pod: its worker may finish until {pod.pass_the_drain_on()}.")
        self.judge(claims.tool_ran(pod.await_result(last), "done before the end"))
        self.judge(claims.worker_ended(*pod.end()))
        snapshot = self.until(lambda seen: claims.finished(seen, ITEM).holds, CLAIM_SECONDS, "Finished=True")
        self.judge(claims.finished(snapshot, ITEM))
        self.judge(claims.lease_untouched(self.simulator.record(), ITEM))
        self.table("get", "worklease")

    def _look_back(self) -> None:
        self.screen.say("")
        self.screen.say("What the server recorded during the whole demo:")
        for claim in self._throughout():
            self.judge(claim)
        for item in (SESSION, STOPPED):
            self.judge(claims.silent_after_end(self.simulator.record(), item))

    def _explain(self) -> None:
        """Check the claims whose failure most often explains a missing step."""
        for claim in self._throughout():
            if not claim.holds:
                self.judge(claim)

    def _throughout(self) -> tuple[Claim, ...]:
        """Return the claims that must hold at any time, according to the server's record."""
        record = self.simulator.record()
        crash = record[-1].seq if self.crash is None else self.crash
        return (
            claims.one_chain(record),
            claims.never_refused(record, crash),
            claims.refusals_were_read(record, crash),
            claims.never_lapsed(record),
        )

    def _pool_says_so(self) -> bool:
        """Return whether the pool's status counts one sandbox that runs."""
        where = f"--namespace={self.grounds.namespace}"
        return self.grounds.kubectl("get", "workpool", "agents", where, "--output=jsonpath={.status.running}") == "1"

    def _quiet(self, items: tuple[str, ...]) -> Snapshot:
        """Wait for a moment in which status and server agree and no beat is in flight or due."""

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
    """Return whether each lease has been renewed after its claim."""
    return all(len(renewals(record, item)) > 1 for item in ITEMS)


def _pods_run(snapshot: Snapshot) -> bool:
    pods = [snapshot.pod(name) for name in (STOPPED_POD, _kept_pod(snapshot))]
    return all(pod is not None and pod.status == "Running" for pod in pods)


def _kept_pod(snapshot: Snapshot) -> str:
    """Return the name of the pod that the operator created."""
    return _pod_of(snapshot, KEPT)


def _pod_of(snapshot: Snapshot, item: str) -> str:
    lease = snapshot.lease(item)
    return lease.sandbox if lease is not None else ""


def _runs(snapshot: Snapshot, item: str) -> bool:
    pod = snapshot.pod(_pod_of(snapshot, item))
    return pod is not None and pod.status == "Running"
