"""A free port on the loopback interface.

Must not promise that it stays free: if another program takes it first, the caller tries again.
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
    """Return a port that nobody listens on, below those that the system gives to outgoing connections.

    If a server's port were in the outgoing range, a client that retries while the server is down may connect to itself
    and so block the port; and any other connection may take the port meanwhile.
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
