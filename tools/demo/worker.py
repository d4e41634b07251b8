"""An unmodified worker of the public SDK in a pod: the demo plays the kubelet, because kwok runs no containers.

Owns the pod's two containers as processes, with the variables of the pod's own specification, and what a kubelet tells
the API server of them. Must not judge.
"""

import base64
import json
import re
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from controlplane import wait_for
from demo.grounds import REPOSITORY, Grounds
from demo.simulator import Simulator
from demo.stage import Stage

MANIFEST: Final = REPOSITORY / "examples" / "worker" / "lease.yaml"
PROGRAM: Final = REPOSITORY / "examples" / "worker" / "worker.py"
ITEM: Final = "sesn_demo"
SECRET: Final = "session-credentials"  # noqa: S105 (the name of a Secret)
DRAINING: Final = "worklease.dev/draining"
DRAIN_SECONDS: Final = 6  # the worker hears of a drain within two
PROXY, WORKER = "proxy", "worker"
SECONDS: Final = 60.0  # for what takes two: the SDK's import takes long on a machine that builds something
LISTENS: Final = re.compile(r"listening on (127\.0\.0\.1:\d+)")
BASE_URL: Final = "ANTHROPIC_BASE_URL"

Part = Mapping[str, Any]


@dataclass(slots=True)
class PlayedPod:
    """The pod of the worker's item, and the processes that are its containers."""

    stage: Stage
    grounds: Grounds
    simulator: Simulator
    name: str = ""

    @property
    def _folder(self) -> Path:
        return self.stage.folder / "worker"

    def ask_for_it(self) -> None:
        """Create the item, the Secret with its token, and the WorkLease of the example, with a short drain."""
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET},
            "stringData": {
                "environment-key": self.simulator.environment_key,
                "sessions-token": self.simulator.create_session(ITEM),
            },
        }
        lease = yaml.safe_load(MANIFEST.read_text("utf-8"))
        lease["spec"]["sandbox"]["drainSeconds"] = DRAIN_SECONDS
        self._folder.mkdir()
        for each in (secret, lease):
            file = self._folder / f"{each['kind']}.json"
            file.touch(mode=0o600)
            file.write_text(json.dumps(each))
            self._kubectl("apply", "-f", str(file))

    def start(self, name: str) -> None:
        """Start the containers of the pod, as a kubelet does: the native sidecar first."""
        self.name = name
        spec = self._read("pod", name)["spec"]
        (sidecar,), (worker,) = spec["initContainers"], spec["containers"]
        options = [
            "--port=0",
            f"--drain-file={self._folder / 'draining'}",
            f"--termination-log={self._folder / 'told'}",
        ]
        self.stage.start_program(
            PROXY, [sys.executable, "-m", "worklease", "proxy", *options], self._variables(sidecar), self._folder
        )
        listens = wait_for(lambda: LISTENS.search(self._log(PROXY)), seconds=SECONDS, what="the proxy")
        assert listens is not None  # noqa: S101  # wait_for returns no empty value
        variables = self._variables(worker) | {BASE_URL: f"http://{listens[1]}", "WORKER_MAX_IDLE": "0.2"}
        self.stage.start_program(WORKER, [sys.executable, str(PROGRAM)], variables, self._folder)

    def use_bash(self, command: str) -> str:
        """Let the session's agent run a command in the sandbox, and return the call's id."""
        return self.simulator.use_bash(ITEM, command)

    def await_result(self, call: str) -> str:
        """Return what a call's result says, once the worker has posted it."""
        return wait_for(lambda: self.simulator.result(ITEM, call), seconds=SECONDS, what="the tool's result")

    def pass_the_drain_on(self) -> str:
        """Show the pod's annotation to the proxy, as the kubelet's volume does, once the operator has set it."""

        def annotation() -> str:
            return str(self._read("pod", self.name)["metadata"]["annotations"].get(DRAINING, ""))

        until = wait_for(annotation, seconds=SECONDS, what="the pod's annotation")
        (self._folder / "draining").write_text(until)
        return until

    def end(self) -> tuple[int, str]:
        """Wait for the worker's end, end the proxy, and report both, as the kubelet does; return code and message."""
        code = self.stage.end_of(WORKER, SECONDS)
        self.stage.signal_program(PROXY, signal.SIGTERM)
        self.stage.end_of(PROXY, SECONDS)
        told = self._folder / "told"
        said = told.read_text() if told.exists() else ""
        ended = {
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": [_ended("worker", code, "")],
            "initContainerStatuses": [_ended("worklease-proxy", 0, said)],
        }
        patch = json.dumps({"status": ended})
        # The pod may be gone already, if the machine is slow: its drain was over.
        self._kubectl("patch", "pod", self.name, "--subresource=status", "--type=strategic", "-p", patch, check=False)
        return code, said

    def _variables(self, container: Part) -> dict[str, str]:
        """Return a container's variables, as a kubelet sets them."""
        secret = self._read("secret", SECRET)["data"]
        found = {"HOME": str(self._folder)}
        for entry in container["env"]:
            key = entry.get("valueFrom", {}).get("secretKeyRef", {}).get("key")
            if key is None:
                found[entry["name"]] = str(entry["value"])
            elif key in secret:
                found[entry["name"]] = base64.b64decode(secret[key]).decode()
        return found

    def _log(self, name: str) -> str:
        file = self.stage.log(name)
        return file.read_text(errors="replace") if file.exists() else ""

    def _read(self, kind: str, name: str) -> Any:
        return json.loads(self._kubectl("get", kind, name, "-o", "json"))

    def _kubectl(self, *words: str, check: bool = True) -> str:
        return self.grounds.kubectl(*words, f"--namespace={self.grounds.namespace}", check=check)


def _ended(name: str, code: int, message: str) -> dict[str, Any]:
    ended = {"exitCode": code, "reason": "Error" if code else "Completed", "message": message}
    state = {"running": None, "terminated": ended}
    return {"name": name, "image": name, "imageID": "", "ready": False, "restartCount": 0, "state": state}
