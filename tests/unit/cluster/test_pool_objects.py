"""What a pool makes of an item: the WorkLease and the Secret, to the letter."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

from pydantic import SecretStr

from worklease.api.models import CommonLeaseSpec
from worklease.api.names import Reference
from worklease.api.pool_models import WorkPool
from worklease.cluster.pool_objects import is_of_a_lease, lease_body, secret_body, template_digest
from worklease.rules.pool_items import Make
from worklease.rules.queue import QueuedItem
from worklease.work_api.queue import work_secret

AT = datetime(2026, 11, 29, 7, tzinfo=UTC)
ITEM = QueuedItem(
    id="work_1", environment_id="env_1", data_type="session", data_id="sesn_1", created_at=None, started_at=None
)
PLAN = Make("agents-0123456789abcdef", "0123456789abcdef", 0, 2)
POD = {"spec": {"containers": [{"name": "sandbox", "image": "busybox"}]}}
TEMPLATE: dict[str, Any] = {
    "metadata": {"labels": {"app": "a"}, "annotations": {"note": "b"}},
    "spec": {"ttlSeconds": 60, "sandbox": {"template": POD, "onFailure": "Restart"}},
}


def pool(**spec: Any) -> WorkPool:
    return WorkPool.parse(
        {
            "metadata": {
                "name": "agents",
                "namespace": "team",
                "uid": "uid-pool",
                "generation": 1,
                "creationTimestamp": "2026-11-29T07:00:00Z",
            },
            "spec": {"environmentID": "env_1", "maxConcurrent": 1, "leaseTemplate": TEMPLATE} | spec,
        }
    )


def test_a_lease_is_the_template_and_the_item() -> None:
    body = lease_body(pool(credentialsSecretRef={"name": "key"}), ITEM, PLAN, has_token=True)
    assert body["metadata"] == {
        "name": PLAN.name,
        "namespace": "team",
        "labels": {"app": "a", "worklease.dev/pool": "agents", "worklease.dev/session-id": "sesn_1"},
        "annotations": {
            "note": "b",
            "worklease.dev/failed-deliveries": "2",
            "worklease.dev/template": template_digest(pool()),
        },
        "finalizers": ["worklease.dev/lease"],
    }
    own = {
        "environmentID": "env_1",
        "workID": "work_1",
        "sessionID": "sesn_1",
        "delivery": PLAN.delivery,
        "acknowledge": True,
        "credentialsSecretRef": {"name": "key"},
        "sessionsTokenSecretRef": {"name": PLAN.name},
    }
    assert own.items() <= body["spec"].items()
    rest = {name: value for name, value in body["spec"].items() if name not in own}
    asked = CommonLeaseSpec.from_wire(TEMPLATE["spec"] | {"ttlSecondsAfterFinished": 3600})
    assert CommonLeaseSpec.from_wire(rest) == asked
    assert rest["sandbox"]["template"] == POD


def test_without_a_token_no_secret_is_named_and_without_a_key_the_settings_name_it() -> None:
    spec = lease_body(pool(), ITEM, PLAN, has_token=False)["spec"]
    assert "sessionsTokenSecretRef" not in spec
    assert "credentialsSecretRef" not in spec


def test_the_template_may_say_how_long_a_finished_lease_stays() -> None:
    body = lease_body(pool(leaseTemplate={"spec": {"ttlSecondsAfterFinished": 5}}), ITEM, PLAN, has_token=True)
    assert body["spec"]["ttlSecondsAfterFinished"] == 5


def test_only_another_pod_template_has_another_digest() -> None:
    edited = {"spec": {"sandbox": {"template": POD | {"metadata": {"labels": {"a": "b"}}}}}}
    digests = [
        template_digest(pool()),
        template_digest(pool(maxConcurrent=9)),
        template_digest(pool(leaseTemplate=edited)),
        template_digest(pool(leaseTemplate={})),
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_the_secret_has_the_token_twice_and_goes_with_its_lease() -> None:
    lease, token = Reference("team", PLAN.name, "uid-lease"), SecretStr("the-token")
    body = secret_body(lease, "agents", token, work_secret(token), AT)
    data = {name: base64.b64decode(value).decode() for name, value in body["data"].items()}
    assert data["sessions-token"] == "the-token"
    assert json.loads(base64.urlsafe_b64decode(data["work-secret"])) == {"sessions_token": "the-token"}
    assert list(data) == ["sessions-token", "work-secret"]
    [owner] = body["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("WorkLease", PLAN.name, "uid-lease")
    assert body["metadata"]["annotations"] == {"worklease.dev/polled-time": "2026-11-29T07:00:00+00:00"}
    assert is_of_a_lease(body)


def test_a_secret_of_somebody_else_is_not_of_a_lease() -> None:
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "a", "uid": "b"}
    assert not is_of_a_lease({"metadata": {"name": "a"}})
    assert not is_of_a_lease({"metadata": {"ownerReferences": [owner]}})
