"""The real API server behaves as the calls about sessions' volumes expect: labels, names, versions, and ends."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from controlplane import ControlPlane
from support.cluster import path_of
from support.scripted_server import kubernetes_at, until
from worklease.api.models import WorkLease, WorkspaceSpec
from worklease.cluster.client import Done, Gone, KubernetesApi, NoAnswer, NotDone, Refused
from worklease.cluster.pods import DryRunAccepted, NotAdmitted
from worklease.cluster.workspace_claims import WorkspaceClaims
from worklease.cluster.workspace_objects import claim_body, marked, session_of, use_of
from worklease.rules.pods import Obstacle
from worklease.rules.workspaces import AwaitEnd, Mount, Volume, choose

CLAIM: dict[str, Any] = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
POD = {"containers": [{"name": "sandbox", "image": "busybox"}]}

Claim = Callable[..., WorkLease]


@pytest.fixture
async def api(control_plane: ControlPlane) -> AsyncIterator[KubernetesApi]:
    async with kubernetes_at(control_plane.url, token=control_plane.token, ca=control_plane.ca) as opened:
        yield opened


@pytest.fixture
def claims(api: KubernetesApi) -> WorkspaceClaims:
    return WorkspaceClaims(api)


@pytest.fixture
def resource(namespace: str) -> Claim:
    """Return how a WorkLease with a workspace is made, by its uid and its claim's specification."""

    def make(uid: str = "uid-1", claim: dict[str, Any] | None = None) -> WorkLease:
        metadata = {"name": "a", "namespace": namespace, "uid": uid, "generation": 1}
        sandbox = {"template": {"spec": POD}, "workspace": {"volumeClaimTemplate": {"spec": claim or CLAIM}}}
        spec = {"environmentID": "env_1", "workID": "work_1", "sessionID": "sesn_1", "sandbox": sandbox}
        return WorkLease.parse({"metadata": metadata | {"creationTimestamp": "2026-11-24T12:00:00Z"}, "spec": spec})

    return make


def workspace(lease: WorkLease) -> WorkspaceSpec:
    assert lease.spec.sandbox is not None
    assert lease.spec.sandbox.workspace is not None
    return lease.spec.sandbox.workspace


async def made(claims: WorkspaceClaims, lease: WorkLease, **metadata: Any) -> Volume:
    """Make the claim of a lease's session, and return it as a list shows it."""
    body = claim_body(lease, workspace(lease))
    body["metadata"] |= metadata
    assert isinstance(await claims.make(lease.namespace, body), Done)
    (volume,) = await of_session(claims, lease)
    return volume


async def of_session(claims: WorkspaceClaims, lease: WorkLease) -> list[Volume]:
    found = await claims.of_session(lease.namespace, session_of(lease))
    assert not isinstance(found, Refused | NoAnswer)
    return found


async def test_a_claim_is_tried_made_once_and_found_by_its_session(claims: WorkspaceClaims, resource: Claim) -> None:
    lease = resource()
    assert await claims.dry_run(lease) == DryRunAccepted()
    assert await of_session(claims, lease) == []
    volume = await made(claims, lease)
    assert (volume.is_ours, volume.idle, volume.unused_since) == (True, 604_800.0, None)
    assert await claims.ours(lease.namespace) == [volume]
    again = await claims.make(lease.namespace, claim_body(lease, workspace(lease)))
    assert isinstance(again, Refused)
    assert again.is_by_name
    assert await claims.dry_run(lease) == DryRunAccepted(), "the session has its volume"


async def test_a_claim_that_the_api_server_does_not_take_is_refused_in_its_words(
    claims: WorkspaceClaims, resource: Claim
) -> None:
    refused = await claims.dry_run(resource(claim={"accessModes": ["ReadWriteOnce"]}))
    assert isinstance(refused, NotAdmitted)
    assert refused.obstacle is Obstacle.SPEC
    assert "spec.resources" in refused.message


async def test_who_uses_a_volume_keeps_it_from_a_deletion_that_saw_it_before(
    claims: WorkspaceClaims, resource: Claim
) -> None:
    lease = resource()
    unused = await made(claims, lease)
    marked_volume = await claims.annotate(lease.namespace, unused, marked(1_790_000_000.0))
    assert isinstance(marked_volume, Volume)
    assert marked_volume.unused_since == 1_790_000_000.0
    assert isinstance(await claims.annotate(lease.namespace, unused, marked(None)), NotDone), "it was written meanwhile"
    used = await claims.annotate(lease.namespace, marked_volume, use_of(resource("uid-2"), workspace(lease)))
    assert isinstance(used, Volume)
    assert used.unused_since is None
    assert isinstance(await claims.delete(lease.namespace, marked_volume), NotDone)
    assert choose(await of_session(claims, lease)) == Mount(used)
    assert isinstance(await claims.delete(lease.namespace, used), Done)
    await until(lambda: _is_gone(claims, lease), "the end of the claim, which no pod uses")
    assert isinstance(await claims.delete(lease.namespace, used), Gone)


async def _is_gone(claims: WorkspaceClaims, lease: WorkLease) -> bool:
    return await of_session(claims, lease) == []


async def test_who_comes_after_a_deletion_sees_it(
    claims: WorkspaceClaims, resource: Claim, control_plane: ControlPlane
) -> None:
    lease = resource()
    volume = await made(claims, lease, finalizers=["tests.worklease.dev/held-up"])
    assert isinstance(await claims.delete(lease.namespace, volume), Done)
    assert isinstance(await claims.annotate(lease.namespace, volume, use_of(lease, workspace(lease))), NotDone)
    (ending,) = await of_session(claims, lease)
    assert choose([ending]) == AwaitEnd(ending)
    path = f"{path_of(lease.namespace, 'PersistentVolumeClaim')}/{volume.name}"
    unheld = {"metadata": {"finalizers": None}}
    control_plane.demand("PATCH", path, unheld, content_type="application/merge-patch+json")
    await until(lambda: _is_gone(claims, lease), "the end of the claim")


async def test_the_sessions_that_are_open_are_those_of_leases_that_are_not_finished(
    claims: WorkspaceClaims, namespace: str, control_plane: ControlPlane
) -> None:
    path = path_of(namespace, "WorkLease")
    kind = {"apiVersion": "worklease.dev/v1alpha1", "kind": "WorkLease"}
    for name in ("open", "finished"):
        spec = {"environmentID": "env_1", "workID": f"work_{name}"}
        control_plane.demand("POST", path, kind | {"metadata": {"name": name}, "spec": spec})
    condition = {"type": "Finished", "status": "True", "reason": "Stopped", "message": ""}
    status = {"conditions": [condition | {"lastTransitionTime": "2026-11-24T12:00:00Z"}]}
    merge = "application/merge-patch+json"
    control_plane.demand("PATCH", f"{path}/finished/status", {"status": status}, content_type=merge)
    assert await claims.open_sessions(namespace) == {("env_1", "work_open")}
