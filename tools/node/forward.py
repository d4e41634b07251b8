"""A port of this machine's loopback interface that leads into a network namespace, and one that leads out of it.

The namespace has no other way in or out. One thread of this process enters it, so that the port ends with the process.
"""

import asyncio
import ctypes
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from controlplane.ports import LOOPBACK

CLONE_NEWNET = 0x40000000  # from linux/sched.h
BLOCK = 65536


class Forwarder:
    """Forwards connections to a listening socket to the same port of loopback, here or in a namespace."""

    def __init__(self, listening: socket.socket, inside: Path | None = None) -> None:
        """Accept connections, in a thread.

        Args:
            listening: Where they come in.
            inside: The network namespace in which they go on; this process's own if there is none.
        """
        self._listening = listening
        self._port = int(listening.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._open: set[object] = set()
        """The tasks of the connections: nothing else refers to one whose both sides are gone, and it would be lost."""
        self._thread = threading.Thread(target=self._run, args=(inside,), daemon=True, name="forwarder")
        self._thread.start()

    @classmethod
    def into(cls, namespace: Path, port: int) -> Self:
        """Let a port of this machine's loopback lead to the same port of a namespace's."""
        return cls(socket.create_server((LOOPBACK, port)), namespace)

    @classmethod
    def out_of(cls, namespace: Path, address: str, port: int) -> Self:
        """Let a port of an address in a namespace lead to the same port of this machine's loopback."""
        with ThreadPoolExecutor(1) as entering:  # a socket stays in the namespace in which it was made
            return cls(entering.submit(_listen, namespace, address, port).result())

    def close(self) -> None:
        """Stop listening, and leave the namespace."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._listening.close()

    def _run(self, inside: Path | None) -> None:
        if inside is not None:
            _enter(inside)
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._accept, sock=self._listening))
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._open.add(task)
        try:
            await self._forward(reader, writer)
        finally:
            self._open.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(LOOPBACK, self._port)
        except OSError:  # not up, or no longer
            writer.transport.abort()
            return
        try:
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        except asyncio.CancelledError:
            pass  # by `close`: asyncio would print the cancellation of a connection's task as an error
        finally:
            writer.close()
            far_writer.close()


def _listen(namespace: Path, address: str, port: int) -> socket.socket:
    _enter(namespace)
    return socket.create_server((address, port))


def _enter(namespace: Path) -> None:
    """Let this thread, and no other one, use a network namespace."""
    handle = os.open(namespace, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(handle, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"{namespace} cannot be entered")
    finally:
        os.close(handle)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until one direction ends, and pass that end on."""
    try:
        while block := await reader.read(BLOCK):
            writer.write(block)
            await writer.drain()
        writer.write_eof()
    except OSError:  # one side is gone: so is the other
        writer.transport.abort()
