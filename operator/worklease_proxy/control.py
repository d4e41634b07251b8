"""What a probe and a hook ask of the proxy that runs in the same container.

Owns the paths of the proxy's own calls. Must import no more than it needs: a probe runs each second of a start.
"""

import socket
from contextlib import closing
from typing import Final

HOST: Final = "127.0.0.1"
"""The proxy answers its own pod and nobody else."""

STATUS_PATH: Final = "/.worklease/status"
DRAIN_PATH: Final = "/.worklease/drain"
"""Below a path that no API has."""

TIMEOUT: Final = 5.0
"""Seconds for the answer of a process on the same machine, which may be short of CPU."""


def ask(port: int, method: str, path: str) -> str:
    """Send one of the proxy's own calls, and return the whole answer.

    Raises:
        OSError: There was no answer.
    """
    with closing(socket.create_connection((HOST, port), TIMEOUT)) as connection:
        connection.settimeout(TIMEOUT)
        head = f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        answer = b""
        while part := connection.recv(65536):
            answer += part
    if not answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.0 200 ")):
        raise OSError(f"port {port} of {HOST} is not the proxy's")
    return answer.partition(b"\r\n\r\n")[2].decode()
