"""A control plane that this process owns: etcd, API server, controllers, scheduler and kwok's nodes.

Owns their order, their readiness, their end and their temporary folder. Must not decide where binaries come from, nor
talk to any other cluster.
"""

import secrets
import signal
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from controlplane import components
from controlplane.binaries import STAGES, ensure
from controlplane.components import ADMIN_USER, KWOK_USER
from controlplane.plane import ControlPlane, write_private
from controlplane.ports import free_port
from controlplane.processes import Processes, StartError
from controlplane.waiting import DeadlineError, wait_for

COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")
SERVER = ("etcd", "kube-apiserver")
BINARIES = (*COMPONENTS, "kubectl")
PORT_ATTEMPTS = 5  # losing one race for a port is rare; losing five has another cause
START_SECONDS = 90.0  # usually 5 s; machines that are busy compiling need many times that
STOP_SECONDS = 3.0  # an API server would wait up to a minute for its clients' watches; after this it is killed
TAKEN = "address already in use"
CONTROLLER_USER = "system:kube-controller-manager"
SCHEDULER_USER = "system:kube-scheduler"
USERS = (ADMIN_USER, KWOK_USER, CONTROLLER_USER, SCHEDULER_USER)


class OwnControlPlane(ControlPlane):
    """A running control plane, as a context manager. Every process ends with this one, however it ends."""

    _needed: Collection[str] = COMPONENTS
    """What must run until pods can run."""

    def __init__(
        self,
        *,
        nodes: int = 2,
        binaries: Mapping[str, Path] | None = None,
        choose_port: Callable[[], int] = free_port,
        processes: Callable[[Path], Processes] = Processes,
        users: Collection[str] = (),
    ) -> None:
        self._choose_port = choose_port
        self._node_names = [f"node-{number}" for number in range(1, nodes + 1)]
        self._tokens = {user: secrets.token_hex(16) for user in (*USERS, *users)}
        binaries = ensure(BINARIES) if binaries is None else binaries
        directory = Path(tempfile.mkdtemp(prefix="worklease-controlplane-")).resolve()
        super().__init__(directory, binaries, port=0, token=self._tokens[ADMIN_USER])
        self._processes = processes(self.directory)

    def __enter__(self) -> Self:
        """Start everything and wait until pods can run."""
        try:
            self._prepare()
            self._start_server()
            for name in ("kube-controller-manager", "kube-scheduler"):
                self._processes.start(name, self._command(name))
            self._make_nodes()
            self._await("nodes and the default service account", self._is_usable, needs=self._needed)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End everything and remove the folder."""
        self.close()

    def close(self) -> None:
        """End everything and remove the folder."""
        self._processes.close()

    @property
    def reaper_pid(self) -> int:
        """The id of the process that ends all others."""
        return self._processes.reaper_pid

    @property
    def pids(self) -> dict[str, int]:
        """The process ids of the running components, by name."""
        return self._processes.look().running

    def log(self, component: str) -> Path:
        """Return the path of a component's log."""
        return self._processes.log(component)

    def kill(self, component: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to a component: SIGKILL to crash it, SIGSTOP and SIGCONT to make it hang for a while."""
        self._processes.signal(component, number)
        if number == signal.SIGKILL:
            self._processes.wait_for_end(component, seconds=STOP_SECONDS)

    def stop(self, component: str) -> None:
        """Stop a component with SIGTERM; kill it if it takes too long."""
        self._processes.signal(component, signal.SIGTERM)
        try:
            self._processes.wait_for_end(component, seconds=STOP_SECONDS)
        except DeadlineError:
            self.kill(component)

    def start(self, component: str) -> None:
        """Start a component again, with its old port and data. On return, the API server is ready."""
        self._processes.start(component, self._command(component))
        if component == "kube-apiserver":
            self._await("the API server", lambda: self.is_ready, needs=SERVER)

    def _command(self, component: str) -> list[str]:
        """Return the command line of a component."""
        binary = self.binaries[component]
        match component:
            case "etcd":
                return components.etcd(binary)
            case "kube-apiserver":
                return components.kube_apiserver(binary, self._layout, self._port)
            case "kube-controller-manager":
                return components.kube_controller_manager(binary, self._layout, CONTROLLER_USER)
            case "kube-scheduler":
                return components.kube_scheduler(binary, self._layout, SCHEDULER_USER)
            case "kwok":
                return components.kwok(binary, self._layout, KWOK_USER)
            case _:
                raise ValueError(f"{component} is not a component; these are: {', '.join(COMPONENTS)}")

    def _prepare(self) -> None:
        """Write what the components read before they start."""
        # Every user but a kubelet is an administrator; the audit log distinguishes them by their names.
        rows = (f'{token},{user},{user},"{_group(user)}"\n' for user, token in self._tokens.items())
        write_private(self._layout.tokens, "".join(rows))
        self._write_stages()

    def _write_stages(self) -> None:
        """Write what kwok does with nodes and pods."""
        own = Path(__file__).with_name("stages.yaml")
        stages = [*sorted((self.binaries["kwok"].parent / STAGES).glob("*.yaml")), own]
        self._layout.stages.write_text("\n---\n".join(path.read_text() for path in stages))

    def _start_server(self) -> None:
        """Start etcd and the API server; if another program took the port first, try another one."""
        self._processes.start("etcd", self._command("etcd"))
        for attempt in range(1, PORT_ATTEMPTS + 1):
            self._port = self._choose_port()
            self._processes.start("kube-apiserver", self._command("kube-apiserver"))
            try:
                self._await("the API server", lambda: self.is_ready, needs=SERVER)
                break
            except StartError:
                taken = TAKEN in self._processes.tail("kube-apiserver")
                if not taken or attempt == PORT_ATTEMPTS:
                    raise
        for user, token in self._tokens.items():
            self.write_kubeconfig(user, token)

    def _await(self, what: str, condition: Callable[[], bool], *, needs: Collection[str]) -> None:
        """Wait for a condition. If a needed component has ended, or time runs out, raise StartError with the logs."""

        def met() -> bool:
            ended = self._processes.look().ended
            if guilty := [name for name in needs if name in ended]:
                codes = ", ".join(f"{name} ended with {ended[name]}" for name in guilty)
                raise StartError(f"{what}: cannot become ready, because {codes}.\n{self._tails(guilty)}")
            return condition()

        try:
            wait_for(met, seconds=START_SECONDS, what=what)
        except DeadlineError as error:
            raise StartError(f"{what}: not ready after {START_SECONDS:g} s.\n{self._tails(needs)}") from error

    def _tails(self, names: Collection[str]) -> str:
        """Return the last lines of the logs."""
        return "\n".join(f"{self.log(name)}:\n{self._processes.tail(name)}" for name in names)

    def _make_nodes(self) -> None:
        """Start kwok, and create the nodes that it plays."""
        self._processes.start("kwok", self._command("kwok"))
        for name in self._node_names:
            if self.request("POST", "/api/v1/nodes", components.node(name)) is None:
                raise StartError(f"{name} could not be created:\n{self._processes.tail('kube-apiserver')}")

    def _is_usable(self) -> bool:
        """Return whether every node accepts pods and pods can be created."""
        nodes = self.get("/api/v1/nodes") or {"items": []}
        ready = [node for node in nodes["items"] if _takes_pods(node)]
        if len(ready) < len(self._node_names):
            return False
        return self.get("/api/v1/namespaces/default/serviceaccounts/default") is not None


def _group(user: str) -> str:
    """Return the group of a user: with that of nodes, a kubelet has only a node's rights."""
    return "system:nodes" if user.startswith("system:node:") else "system:masters"


def _takes_pods(node: Mapping[str, Any]) -> bool:
    """Return whether a node is Ready and has no taint."""
    conditions = {each["type"]: each["status"] for each in node["status"].get("conditions", [])}
    return conditions.get("Ready") == "True" and not node["spec"].get("taints")
