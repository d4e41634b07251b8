"""The manifests of the documents' page: what their pods say is run as processes, with an unmodified worker."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.processes import ROOT
from support.simulator import Simulator
from support.workers import SDKS, end_turn, proxy_process, result_of, use_bash, worker_process
from worklease.api.models import WorkLease
from worklease.cluster.pod_template import pod_body, template_problem
from worklease.cluster.proxy_sidecar import ProxyOptions

EXAMPLES = ROOT / "examples" / "worker"
IMAGE = "registry.example.com/worklease-operator:0.1.0"
OPTIONS = ProxyOptions(image=IMAGE, upstream="https://api.anthropic.com")
METADATA = {"namespace": "default", "uid": "0d1c", "generation": 1, "creationTimestamp": "2026-11-24T12:00:00Z"}
Spec = Mapping[str, Any]


def made_by_the_operator() -> Spec:
    body = yaml.safe_load((EXAMPLES / "lease.yaml").read_text())
    resource = WorkLease.parse(body | {"metadata": METADATA | body["metadata"]})
    assert template_problem(resource, OPTIONS) == ""
    spec: Spec = pod_body(resource, 0, "session-credentials", proxy=OPTIONS)["spec"]
    return spec


def written_by_hand() -> Spec:
    _, pod = yaml.safe_load_all((EXAMPLES / "pod.yaml").read_text())
    spec: Spec = pod["spec"]
    return spec


PODS = {"lease.yaml": made_by_the_operator, "pod.yaml": written_by_hand}


def variables(container: Spec, secret: Mapping[str, str]) -> dict[str, str]:
    """Return a container's variables as the kubelet sets them."""
    found = {}
    for entry in container["env"]:
        key = entry.get("valueFrom", {}).get("secretKeyRef", {}).get("key")
        found[entry["name"]] = str(entry["value"]) if key is None else secret[key]
    return found


@pytest.mark.parametrize("manifest", PODS)
def test_a_worker_works_in_the_pod_of_a_manifest(manifest: str, simulator: Simulator, tmp_path: Path) -> None:
    spec = PODS[manifest]()
    (sidecar,), (worker,) = spec["initContainers"], spec["containers"]
    item = next(entry["value"] for entry in worker["env"] if entry["name"] == "ANTHROPIC_WORK_ID")
    token = str(simulator.create_item(item, data_id=item)["sessions_token"])
    secret = base64.urlsafe_b64encode(json.dumps({"sessions_token": token}).encode()).decode()
    told = variables(worker, {"sessions-token": token, "work-secret": secret})
    assert told.pop("ANTHROPIC_BASE_URL") == "http://127.0.0.1:8788"
    environment = variables(sidecar, {}) | {"WORKLEASE_PROXY_UPSTREAM": simulator.url}
    first = use_bash(simulator, "echo works", item)
    with (
        proxy_process(tmp_path, **environment) as proxy,
        worker_process(tmp_path, max(SDKS), proxy.url, token, **told) as running,
    ):
        assert result_of(simulator, first, item) == "works"
        end_turn(simulator, item)
        assert running.end() == 0, running.said
        assert proxy.status()["refused"] == {}
    assert [entry for entry in simulator.history(item) if entry["event"] == "request"] == []


def test_the_proxy_that_is_written_by_hand_is_the_operators() -> None:
    by_hand, made = written_by_hand(), made_by_the_operator()
    (own,), (theirs,) = by_hand["initContainers"], made["initContainers"]
    differing = {"ANTHROPIC_WORK_ID": "sesn_demo"}
    assert variables(own, {}) | differing == variables(theirs, {})
    assert {key: value for key, value in own.items() if key != "env"} == {
        key: value for key, value in theirs.items() if key != "env"
    }
    assert by_hand["volumes"][-1] == made["volumes"][-1]
    names = {entry["name"] for entry in by_hand["containers"][0]["env"]}
    assert names == {entry["name"] for entry in made["containers"][0]["env"]}
