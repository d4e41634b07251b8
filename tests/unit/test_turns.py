"""A turn that is due and not taken is overdue, and the keeper says for how long."""

import asyncio
import time
from datetime import UTC, datetime

from support.lease_objects import lease
from support.scripted_server import Answer, always, kubernetes_at, serving, until
from worklease.budget import Budget
from worklease.checkpoint import Checkpoint
from worklease.credentials import Credentials
from worklease.errands import Rooms
from worklease.happenings import Telling
from worklease.keeper import Keeper
from worklease.kept import Options, Wall
from worklease.kubernetes_api import KubernetesApi
from worklease.listing import Listing
from worklease.sandbox import Sandboxes
from worklease.status import StatusWriter
from worklease.work_api import WorkApi


def rooms(api: KubernetesApi, work_api: WorkApi) -> Rooms:
    budget = Budget(0, time.monotonic)
    return Rooms(
        kubernetes=api,
        work_api=work_api,
        credentials=Credentials(api, time.monotonic),
        sandboxes=Sandboxes(api),
        status=StatusWriter(api, 1000.0, time.monotonic),
        budget=budget,
        listing=Listing(work_api, budget),
        checkpoint=Checkpoint(api, "own", time.monotonic),
        telling=Telling(),
    )


def wall() -> Wall:
    return Wall(time.monotonic(), datetime.now(UTC))


async def test_a_resource_that_nobody_carries_is_overdue_until_somebody_does() -> None:
    body = lease("demo", None)
    body["metadata"] |= {"generation": 1, "resourceVersion": "1"}
    async with serving() as server, kubernetes_at(server.url) as api, WorkApi(server.url, time.monotonic) as work_api:
        server.script = always(Answer(status=503, body={"message": "away"}))
        keeper = Keeper(rooms(api, work_api), Options(interval=30, credentials_secret="s"), time.monotonic, wall)
        assert keeper.overdue() == 0
        keeper.see(body)
        assert keeper.overdue() == 0, "its timer may come within a second"
        await until(lambda: keeper.overdue() > 0.1, "a turn that nobody takes")
        carrying = asyncio.create_task(keeper.run())
        await until(lambda: keeper.overdue() == 0, "somebody who takes it")
        keeper.unsee("uid-demo")
        assert keeper.overdue() == 0
        carrying.cancel()
        await asyncio.wait({carrying})
        await keeper.close()
