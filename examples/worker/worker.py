"""A worker as the public SDK documents it: it knows of no proxy and of no WorkLease, and keeps its item's lease itself.

Behind the proxy (`sandbox.worker.proxy`) its heartbeats and its stop are answered in the pod, and the operator keeps
the lease from outside. The SDK reads all that it needs from the environment.
"""

import asyncio
import logging
import os

from anthropic import AsyncAnthropic


async def main() -> None:
    """Work on the item that the environment names, until its session has nothing more to do."""
    async with AsyncAnthropic() as client:
        max_idle = float(os.environ.get("WORKER_MAX_IDLE", "60"))
        await client.beta.environments.work.worker(max_idle=max_idle).handle_item()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main())
