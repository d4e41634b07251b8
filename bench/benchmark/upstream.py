"""The upstream of the proxy's benchmark: a server that costs as little as it can, as a process of its own.

``python -m benchmark.upstream PORT``. It answers each call with a thousand bytes; ``/down`` with fifty mebibytes; and
``/silent?SECONDS`` with a first part at once and a last one after so long. What is uploaded is thrown away.
"""

import asyncio
import sys
from typing import Final

SMALL: Final = 1000
LARGE: Final = 50 << 20
PART: Final = bytes(1 << 18)

_OK: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the calls of one connection."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            left = length(head)
            while left > 0:
                left -= len(await reader.read(min(left, 1 << 20)))
            await _answer(head.split(b" ", 2)[1], writer)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the client has left
    finally:
        writer.close()


async def _answer(target: bytes, writer: asyncio.StreamWriter) -> None:
    if target == b"/down":
        writer.write(_OK % LARGE)
        for _ in range(LARGE // len(PART)):
            writer.write(PART)
            await writer.drain()
    elif target.startswith(b"/silent?"):
        writer.write(_OK % 2 + b"1")
        await asyncio.sleep(float(target.partition(b"?")[2]))
        writer.write(b"2")
    else:
        writer.write(_OK % SMALL + bytes(SMALL))


def length(head: bytes) -> int:
    """Return the length of the body that follows a head; 0 if it names none."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


async def _main(port: int) -> None:
    async with await asyncio.start_server(serve, "127.0.0.1", port, limit=1 << 20) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
