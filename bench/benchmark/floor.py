"""The floor: what a beat costs in aiohttp alone. No Kubernetes, no status, no handling of doubt, no budget.

``python -m benchmark.floor URL KEY COUNT INTERVAL``: one task per lease, spread over the first interval.
"""

import asyncio
import sys

import aiohttp

HEADERS = {"anthropic-version": "2023-06-01", "anthropic-beta": "managed-agents-2026-04-01"}


async def keep(session: aiohttp.ClientSession, url: str, interval: float, delay: float) -> None:
    """Send the beats of one lease forever."""
    loop = asyncio.get_running_loop()
    value = "NO_HEARTBEAT"
    await asyncio.sleep(delay)
    while True:
        due = loop.time() + interval
        try:
            async with session.post(url, params={"expected_last_heartbeat": value}) as response:
                value = (await response.json())["last_heartbeat"] if response.status == 200 else "NO_HEARTBEAT"
        except (aiohttp.ClientError, TimeoutError):
            due = loop.time() + 1.0
        await asyncio.sleep(due - loop.time())


async def main(url: str, key: str, count: int, interval: float) -> None:
    """Keep ``count`` leases."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=75.0)
    headers = HEADERS | {"authorization": f"Bearer {key}"}
    timeout = aiohttp.ClientTimeout(10.0)
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as session:
        await asyncio.gather(
            *(
                keep(
                    session,
                    f"{url}/v1/environments/env_bench/work/work_{n:05}/heartbeat",
                    interval,
                    n * interval / count,
                )
                for n in range(count)
            )
        )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
