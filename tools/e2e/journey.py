"""The journey: seven chapters, each with its claims.

Owns what happens, in which order, and how long each step may take. Must not decide whether a claim holds, nor how
anything looks, nor where containers run.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from controlplane import DeadlineError, ExistingCluster
from demo import claims
from demo.claims import Claim
from demo.record import renewals
from demo.simulator import Simulator
from demo.snapshot import Snapshot
from demo.telling import Telling
from e2e import claims as own
from e2e.containers import Containers
from e2e.helm import RELEASE, Helm
from e2e.images import Images
from e2e.sandboxes import ASKED_TO_END, EVICTED, OUT_OF_MEMORY, STANDING, STOPPED, Sandbox

EXAMPLE = STANDING.item  # the WorkLease of the chart's own example keeps it
TTL_SECONDS = 45  # a beat each 15 s: an upgrade takes longer than one and less than three
INTERVAL_SECONDS = TTL_SECONDS / 3
CLAIM_SECONDS = 60.0
FAILURE_SECONDS = 120.0  # the kubelet looks at volumes once a minute
SLACK_SECONDS = 5.0
API_SERVER = ("endpointslices", "--namespace=default", "--selector=kubernetes.io/service-name=kubernetes")
GONE = (
    "deployments,services,serviceaccounts,secrets,roles,rolebindings,configmaps,jobs,clusterroles,clusterrolebindings,"
    "networkpolicies,poddisruptionbudgets,"
    "validatingadmissionpolicies,validatingadmissionpolicybindings"
)


@dataclass(slots=True)
class Journey(Telling):
    """One run of the journey: call `tell`, then look at `claims` and at `unseen`."""

    simulator: Simulator = field(init=False)
    cluster: ExistingCluster
    helm: Helm
    images: Images
    containers: Containers
    unseen: list[str] = field(default_factory=list, init=False)
    """What cannot be shown because no kubelet runs."""

    def tell(self) -> bool:
        """Tell all chapters; return whether every claim holds."""
        chapters = (
            self._install,
            self._keep,
            self._stop,
            self._run_out_of_memory,
            self._evict,
            self._upgrade,
            self._uninstall,
        )
        for number, chapter in enumerate(chapters, start=1):
            try:
                chapter(number)
            except DeadlineError as error:
                self.judge(Claim(f"each step of chapter {number} happens in time", str(error)))
            # Without a lease there is nothing more to show. The later chapters do not depend on each other.
            if chapter == self._install and not self._all_so():
                break
        return self._all_so()

    def _all_so(self) -> bool:
        return all(claim.holds for claim in self.claims)

    def _install(self, number: int) -> None:
        self.screen.chapter(
            number,
            "Helm installs the operator and a Work API",
            f"The chart installs the CRD, {own.REPLICAS} processes of the operator, a service account with only the "
            "rights that they use, network policies, a simulated Work API, and one WorkLease as an example. You need "
            "no account.",
        )
        ports = self.cluster.kubectl("get", *API_SERVER, "-o", "jsonpath={.items[*].ports[*].port}").split()
        values = {
            **self.images.values,
            "replicas": str(own.REPLICAS),
            "networkPolicy.enabled": "true",
            "networkPolicy.apiServer.ports": f"{{{','.join(ports)}}}",
            "simulator.enabled": "true",
            "simulator.ttlSeconds": str(TTL_SECONDS),
            "watchNamespaces[0]": self.grounds.namespace,
        }
        options = "--set networkPolicy.enabled=true --set simulator.enabled=true"
        self.screen.command(f"helm install {RELEASE} charts/{RELEASE} {options} ...")
        self.helm.install(values)
        self.simulator = self.containers.simulator()
        self.containers.follow()
        snapshot = self.until(lambda seen: claims.leases_held(seen, [EXAMPLE]).holds, CLAIM_SECONDS, "a held lease")
        self.judge(own.operator_runs(snapshot))
        self.judge(claims.leases_held(snapshot, [EXAMPLE]))
        self._needs_kubelet("the images are available, and run as uid 65532 with a read-only root file system")
        self.table("get", "worklease,pods")

    def _keep(self, number: int) -> None:
        self.screen.chapter(
            number,
            "The operator's own pod keeps the lease",
            f"The lease lasts {TTL_SECONDS} s and is renewed at a third of that, and sooner when one process takes it "
            "over from another. Meanwhile a sandbox pod is added.",
        )
        self._apply(STANDING.pod_manifest)
        self.until(lambda _: len(renewals(self.simulator.record(), EXAMPLE)) > 2, TTL_SECONDS, "two renewals")  # noqa: PLR2004
        self.judge(own.longest_gap(self.simulator.record(), EXAMPLE, 0, INTERVAL_SECONDS + claims.JITTER_SECONDS))
        self.judge(claims.one_chain(self.simulator.record()))

        def agreed(seen: Snapshot) -> bool:
            return self._verbatim(seen).holds and _runs(seen, STANDING)

        self.judge(
            self._verbatim(self.until(agreed, self.grounds.starting_seconds, "a status with the server's value"))
        )
        self._needs_kubelet("the beats came from the pod, not from a process of this machine")
        self.table("get", "worklease")

    def _stop(self, number: int) -> None:
        self.screen.chapter(
            number,
            "An item is stopped, and its sandbox is asked to end",
            "The answer to the next beat says so. The sandbox gets SIGTERM and its grace period. Once it is gone, the "
            "operator confirms the stop.",
        )
        self._begin(STOPPED)
        self.containers.listen(STOPPED.pod)
        before = self.stage.look(self.grounds)
        self.screen.command(self.simulator.stop_line(STOPPED.item))
        self.simulator.stop(STOPPED.item)
        limit = INTERVAL_SECONDS + self.grounds.ending_seconds + SLACK_SECONDS
        self.until(lambda seen: seen.pod(STOPPED.pod) is None, limit, f"the end of pod {STOPPED.pod}")
        snapshot = self._ended(STOPPED)
        self.judge(claims.pod_gone(snapshot, STOPPED.pod))
        self.judge(claims.pods_untouched(before, snapshot, [STANDING.pod]))
        heard = self.containers.heard(STOPPED.pod)
        self._needs_kubelet(
            f"the sandbox was asked: its log says {ASKED_TO_END!r}", lambda: "" if ASKED_TO_END in heard else heard
        )
        self.table("get", "worklease")

    def _run_out_of_memory(self, number: int) -> None:
        self.screen.chapter(
            number,
            "A sandbox runs out of memory",
            "It uses more than its limit, and the kernel kills it. The item must not wait for its lease to lapse: the "
            "operator stops it and shows the reason on the object.",
        )
        snapshot = self._fail(OUT_OF_MEMORY, "OOMKilled")
        lease = snapshot.lease(OUT_OF_MEMORY.item)
        code = lease.sandbox_exit_code if lease else None
        self._needs_kubelet("the kernel killed it, with exit code 137", lambda: "" if code == 137 else f"{code}")  # noqa: PLR2004

    def _evict(self, number: int) -> None:
        self.screen.chapter(
            number,
            "A sandbox is evicted",
            "It fills its volume beyond the limit, and the kubelet evicts the pod. The operator stops the item again.",
        )
        self._fail(EVICTED, "Evicted")
        self._needs_kubelet("the kubelet measured the volume, and evicted the pod")

    def _upgrade(self, number: int) -> None:
        self.screen.chapter(
            number,
            "An upgrade and a rollback, while a lease is held",
            "A pod starts, and an old one hands over what it keeps; then the next. No sandbox notices.",
        )
        self._change(
            "helm upgrade --set config.logLevel=debug", lambda: self.helm.upgrade({"config.logLevel": "debug"})
        )
        self._change("helm rollback", self.helm.rollback)
        self.judge(claims.never_lapsed(self.simulator.record()))
        self._needs_kubelet("those gaps include the start of a container")
        self.table("get", "worklease")

    def _change(self, words: str, change: Callable[[], str]) -> None:
        """Change the release, and check that a new process goes on with the lease."""
        before, seq = self.stage.look(self.grounds), self.simulator.record()[-1].seq
        self.screen.command(f"{words} {RELEASE} ...")
        change()
        self.containers.follow()

        def goes_on(seen: Snapshot) -> bool:
            renewed = claims.beaten_since(self.simulator.record(), seq, [EXAMPLE]).holds
            return renewed and own.operator_replaced(before, seen).holds

        snapshot = self.until(goes_on, TTL_SECONDS, "a beat of the new process")
        self.judge(own.operator_replaced(before, snapshot))
        self.judge(claims.pods_untouched(before, snapshot, [STANDING.pod]))
        self.judge(own.longest_gap(self.simulator.record(), EXAMPLE, seq, TTL_SECONDS))

    def _uninstall(self, number: int) -> None:
        self.screen.chapter(
            number,
            "Helm uninstalls the operator",
            "Running work is not touched: sandboxes and WorkLeases stay, and so does the CRD. The operator's "
            "finalizers are removed, so that everything can be deleted without it.",
        )
        before = self.stage.look(self.grounds)
        self.judge(claims.one_chain(self.simulator.record()))
        self.screen.command(f"helm uninstall {RELEASE}")
        self.helm.uninstall()
        self.containers.end()
        snapshot = self.until(
            lambda seen: not own.operator_pods(seen), self.grounds.ending_seconds, "the operator's end"
        )
        labelled = ("--selector", f"app.kubernetes.io/instance={RELEASE}", "-o", "name")
        self.judge(own.nothing_left(self._get(GONE, *labelled).split()))
        self.judge(own.leases_stay(before, snapshot))
        self.judge(claims.pods_untouched(before, snapshot, [STANDING.pod]))
        finalizers = self._get("worklease", "-o", "jsonpath={.items[*].metadata.finalizers}")
        self._needs_kubelet("no WorkLease has a finalizer: the hook's pod removed them", lambda: finalizers)

    def _begin(self, sandbox: Sandbox) -> Snapshot:
        """Create a WorkLease and its sandbox, and wait until both are as they should be."""
        self._apply(sandbox.manifests)
        held = lambda seen: claims.leases_held(seen, [sandbox.item]).holds and _runs(seen, sandbox)  # noqa: E731
        return self.until(held, self.grounds.starting_seconds, f"a held lease and a running {sandbox.pod}")

    def _fail(self, sandbox: Sandbox, reason: str) -> Snapshot:
        """Let a sandbox end in its own way, and check what happens to its item."""
        self._begin(sandbox)
        snapshot = self._ended(sandbox)
        self.judge(own.ended_by(snapshot, sandbox.item, reason))
        self.table("get", "worklease")
        return snapshot

    def _ended(self, sandbox: Sandbox) -> Snapshot:
        """Wait until an item is over, and check that the server was told."""
        item = sandbox.item
        snapshot = self.until(lambda seen: claims.finished(seen, item).holds, FAILURE_SECONDS, f"the end of {item}")
        self.judge(claims.finished(snapshot, item))
        self.judge(claims.stop_confirmed(self.simulator.record(), item))
        return snapshot

    def _verbatim(self, seen: Snapshot) -> Claim:
        return claims.status_is_verbatim(seen, {EXAMPLE: self.simulator.values()[EXAMPLE]})

    def _needs_kubelet(self, text: str, objection: Callable[[], str] | None = None) -> None:
        """Check what only real containers show; if there are none, say so.

        Without an objection, the text says what the chapter's other claims have shown if containers are real.
        """
        if self.containers.played:
            self.unseen.append(text)
            self.screen.say(f"Needs a kubelet, so it is not checked here: {text}.")
        elif objection is not None:
            self.judge(Claim(text, objection()))

    def _apply(self, manifest: Callable[[str, str], str]) -> None:
        self.cluster.kubectl("apply", "-f", "-", input=manifest(self.grounds.namespace, self.images.sandbox))

    def _get(self, *words: str) -> str:
        return self.grounds.kubectl("get", f"--namespace={self.grounds.namespace}", *words)


def _runs(snapshot: Snapshot, sandbox: Sandbox) -> bool:
    pod = snapshot.pod(sandbox.pod)
    return pod is not None and pod.status == "Running"
