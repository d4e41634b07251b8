"""What a pool makes of an item: the WorkLease of its delivery, and the Secret with the item's token.

Owns both bodies. Must not call anybody. The environment's key is in neither: the WorkLease names the pool's Secret.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from pydantic import SecretStr

from worklease.api.names import (
    API_VERSION,
    DELIVERIES_ANNOTATION,
    FINALIZER,
    KIND,
    POLLED_ANNOTATION,
    POOL_LABEL,
    SESSION_LABEL,
    TEMPLATE_ANNOTATION,
    Reference,
)
from worklease.api.pool_models import WorkPool
from worklease.cluster.credentials import SESSIONS_TOKEN
from worklease.rules.pool_items import DIGEST, Make
from worklease.rules.queue import QueuedItem

WORK_SECRET: Final = "work-secret"  # noqa: S105 (the name of a Secret's key)
"""The entry for workers behind the proxy: the token's JSON in base64, and nothing else."""

KEPT_FOR: Final = 3600
"""Seconds for which a finished WorkLease stays where the template does not say: long enough to look at it."""


def lease_body(pool: WorkPool, item: QueuedItem, plan: Make, *, has_token: bool) -> dict[str, Any]:
    """Return the WorkLease of a delivery; without a token it names no Secret for one.

    It has no owner: a pool that is deleted ends its leases in order, and those that are finished stay.
    """
    template = pool.spec.lease_template
    metadata = template.metadata
    labels = (metadata.labels if metadata is not None else None) or {}
    annotations = (metadata.annotations if metadata is not None else None) or {}
    spec = template.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    spec.setdefault("ttlSecondsAfterFinished", KEPT_FOR)
    spec |= {
        "environmentID": pool.spec.environment_id,
        "workID": item.id,
        "sessionID": item.data_id,
        "delivery": plan.delivery,
        "acknowledge": True,
    }
    if (key := pool.spec.credentials_secret_ref) is not None:
        spec["credentialsSecretRef"] = {"name": key.name}
    if has_token:
        spec["sessionsTokenSecretRef"] = {"name": plan.name}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": plan.name,
            "namespace": pool.namespace,
            "labels": {**labels, POOL_LABEL: pool.name, SESSION_LABEL: item.data_id},
            "annotations": {
                **annotations,
                DELIVERIES_ANNOTATION: str(plan.failed_deliveries),
                TEMPLATE_ANNOTATION: template_digest(pool),
            },
            "finalizers": [FINALIZER],
        },
        "spec": spec,
    }


def template_digest(pool: WorkPool) -> str:
    """Return the digest of a pool's pod template and its volume: whether a sandbox of it was ready is known by that."""
    sandbox = pool.spec.lease_template.spec.sandbox
    template = None if sandbox is None else sandbox.template
    volume = None if sandbox is None or sandbox.workspace is None else sandbox.workspace.model_dump(mode="json")
    told = json.dumps(template if volume is None else [template, volume], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:DIGEST]


def secret_body(lease: Reference, pool: str, token: SecretStr, work_secret: str, polled: datetime) -> dict[str, Any]:
    """Return the Secret of a lease; it goes with its owner, and says when the poll was sent that brought its token."""
    owner = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": lease.name,
        "uid": lease.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {
            "name": lease.name,
            "namespace": lease.namespace,
            "labels": {POOL_LABEL: pool},
            "annotations": {POLLED_ANNOTATION: polled.isoformat()},
            "ownerReferences": [owner],
        },
        "data": {
            SESSIONS_TOKEN: _encoded(token.get_secret_value()),
            WORK_SECRET: _encoded(work_secret),
        },
    }


def is_of_a_lease(secret: Mapping[str, Any]) -> bool:
    """Whether a Secret was made for a WorkLease, whichever: another one is its author's, and is not replaced."""
    owners = (secret.get("metadata") or {}).get("ownerReferences") or ()
    return any(owner.get("apiVersion") == API_VERSION and owner.get("kind") == KIND for owner in owners)


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
