"""`kubectl describe worklease` explains a failed sandbox without any log."""

import re

import pytest

from controlplane import ControlPlane
from support.operator import Leases
from support.sandboxes import ITEM, await_reasons, end_containers
from support.simulator import Simulator


@pytest.mark.usefixtures("operator")
def test_describe_tells_the_story_of_a_failed_sandbox(
    leases: Leases, simulator: Simulator, control_plane: ControlPlane
) -> None:
    simulator.create_item(ITEM)
    spec = {"template": leases.template(waits=True), "onFailure": "Restart", "maxRestarts": 1}
    leases.create(ITEM, sandbox=spec)
    first = leases.await_pod()
    end_containers(leases, first, exit_code=137, reason="OOMKilled", message="The heap is full.")
    second = leases.await_pod(besides=[first], seconds=60)
    end_containers(leases, second, exit_code=3, message="The disk is full.")
    leases.await_condition(ITEM, "Finished", "True", "Stopped", seconds=60)
    made, gone = ("SandboxCreated", "SandboxFailed"), ("TearingDown", "TornDown")
    story = ("Claimed", *made, *gone, *made, "Stopped", *gone)
    await_reasons(leases, *story)
    text = control_plane.kubectl("--namespace", leases.namespace, "describe", "worklease", "work-a")
    for line in (
        f"Message: +The work item is stopped. Pod {second} failed with exit code 3: The disk is full.",
        "Restarts: +1",
        "Exit Code: +3\n +Finish Time: .*\n +Message: +The disk is full.",
        "Exit Code: +137\n +Finish Time: .*\n +Message: +The heap is full.(\n.*)*OOMKilled",
        "State: +stopped",
    ):
        assert re.search(line, text), f"{line} is not in:\n{text}"
    events = text.partition("\nEvents:")[2]
    assert re.findall(r"^  (?:Normal|Warning) +(\w+)", events, re.MULTILINE) == list(story)
    oom = f"Pod {first} ran out of memory and was killed with exit code 137: The heap is full. (OOMKilled)"
    for note in (
        oom,
        "was created from the template, attempt 2.",
        f"Pod {second} failed with exit code 3: The disk is full.",
    ):
        assert note in events, f"{note} is not in:\n{events}"
