"""The command line of ``worklease proxy``: serve, or ask the proxy that serves whether it is ready, or to drain.

Owns the options, their variables, the signals and the log's form. It imports the server only where it serves: a probe
runs each second of a start.
"""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from worklease_proxy import control
from worklease_proxy.calls import OwnItem

PORT: Final = 8788
"""The port on the loopback interface. No other meaning: it is registered for nothing that runs in pods."""

UPSTREAM: Final = "https://api.anthropic.com"

DRAIN_SECONDS: Final = 30
"""As the resource's ``drainSeconds`` by default."""

TERMINATION_LOG: Final = "/dev/termination-log"
"""Where Kubernetes looks for a container's termination message."""

_log = logging.getLogger("worklease_proxy")


def main(arguments: Sequence[str]) -> NoReturn:
    """Do what the command line asks for, and end the process."""
    options = _parser().parse_args(arguments)
    own = OwnItem(*(os.environ.get(f"ANTHROPIC_{name}", "") for name in ("ENVIRONMENT_ID", "WORK_ID", "SESSION_ID")))
    if options.ready or options.drain:
        sys.exit(_ask(options))
    if not own.environment_id or not own.work_id:
        _fail("ANTHROPIC_ENVIRONMENT_ID and ANTHROPIC_WORK_ID must say whose proxy this is")
    if not options.upstream.startswith(("http://", "https://")):
        _fail("WORKLEASE_PROXY_UPSTREAM must be an address that begins with http:// or https://")
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S"
    )
    sys.exit(asyncio.run(_serve(options, own)))


def _parser() -> argparse.ArgumentParser:
    read = os.environ.get
    parser = argparse.ArgumentParser(
        prog="worklease proxy",
        description="Stand between an unmodified worker and the API, in the worker's own pod: answer the heartbeats "
        "and the stop of its work item, refuse calls about other items, and pass everything else on.",
        epilog="The item is read from ANTHROPIC_ENVIRONMENT_ID, ANTHROPIC_WORK_ID and ANTHROPIC_SESSION_ID. "
        "HTTPS_PROXY, NO_PROXY and SSL_CERT_FILE are honoured; WORKLEASE_PROXY_CERTIFICATES has more authorities to "
        "trust, as PEM. It listens on 127.0.0.1 only.",
    )
    parser.add_argument(
        "--port",
        type=int,
        metavar="N",
        default=read("WORKLEASE_PROXY_PORT", str(PORT)),
        help=f"WORKLEASE_PROXY_PORT; default {PORT}.",
    )
    parser.add_argument(
        "--upstream",
        metavar="URL",
        default=read("WORKLEASE_PROXY_UPSTREAM") or UPSTREAM,
        help=f"The API; WORKLEASE_PROXY_UPSTREAM; default {UPSTREAM}.",
    )
    parser.add_argument(
        "--drain-seconds",
        type=int,
        metavar="N",
        default=read("WORKLEASE_PROXY_DRAIN_SECONDS", str(DRAIN_SECONDS)),
        help="How long the pod may finish; the TTL that the worker is told follows; WORKLEASE_PROXY_DRAIN_SECONDS; "
        f"default {DRAIN_SECONDS}.",
    )
    parser.add_argument(
        "--drain-file",
        metavar="PATH",
        default=read("WORKLEASE_PROXY_DRAIN_FILE", ""),
        help="A file that has content once the pod is to be drained; WORKLEASE_PROXY_DRAIN_FILE.",
    )
    parser.add_argument(
        "--termination-log",
        metavar="PATH",
        default=read("WORKLEASE_PROXY_TERMINATION_LOG", TERMINATION_LOG),
        help="Where to say that the worker gave up; WORKLEASE_PROXY_TERMINATION_LOG; default /dev/termination-log.",
    )
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--ready", action="store_true", help="Ask whether the proxy of this container listens.")
    asked.add_argument("--drain", action="store_true", help="Ask the proxy of this container to begin the drain.")
    return parser


def _ask(options: argparse.Namespace) -> int:
    method, path = ("POST", control.DRAIN_PATH) if options.drain else ("GET", control.STATUS_PATH)
    try:
        print(control.ask(options.port, method, path))  # noqa: T201 (for people, and for the kubelet's events)
    except OSError as error:
        print(f"the proxy does not answer: {error}", file=sys.stderr)  # noqa: T201 (as above)
        return 1
    return 0


def _fail(message: str) -> NoReturn:
    print(f"Error: {message}", file=sys.stderr)  # noqa: T201 (a terminal program)
    sys.exit(2)


async def _serve(options: argparse.Namespace, own: OwnItem) -> int:
    from worklease_proxy.server import Proxy, Sidecar  # noqa: PLC0415 (a probe does without)
    from worklease_proxy.upstream import Upstream  # noqa: PLC0415 (as above)

    sidecar = Sidecar(
        own=own,
        drain_seconds=options.drain_seconds,
        drain_file=Path(options.drain_file) if options.drain_file else None,
        termination_log=Path(options.termination_log) if options.termination_log else None,
    )
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    certificates = os.environ.get("WORKLEASE_PROXY_CERTIFICATES", "")
    async with Upstream.connect(options.upstream, certificates=certificates) as api:
        proxy = Proxy(sidecar, api)
        try:
            await proxy.start(options.port)
        except OSError as error:
            print(f"Error: cannot listen on {control.HOST}:{options.port}: {error.strerror}", file=sys.stderr)  # noqa: T201 (as above)
            return 1
        _log.info("listening on %s:%d for %s, upstream %s", control.HOST, proxy.port, own.work_id, api.host)
        watch = asyncio.create_task(proxy.watch_drain_file())
        await told.wait()
        await proxy.finish("SIGTERM")
        watch.cancel()
        await proxy.close()
    return 0
