"""A free port on the loopback interface.

Must not promise that it stays free: whoever takes it tries again when it is not.
"""

import random
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"
LOWEST = 20000  # above the ports that well-known services use
EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
USUAL_EPHEMERAL = 32768  # Linux' default, and below that of other systems
ATTEMPTS = 100


def free_port() -> int:
    """A port that nobody listens on, below those that the system gives to outgoing connections.

    A client that retries against a stopped server on an outgoing port may connect to itself and keep the server from
    coming back; and any other connection may take such a port while the server is down.
    """
    first = int(EPHEMERAL_RANGE.read_text().split()[0]) if EPHEMERAL_RANGE.exists() else USUAL_EPHEMERAL
    for _ in range(ATTEMPTS):
        port = random.randrange(LOWEST, max(first, LOWEST + ATTEMPTS))  # noqa: S311  # no secret
        with socket.socket() as candidate:
            try:
                candidate.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port between {LOWEST} and {first} after {ATTEMPTS} attempts")
