"""`worklease simulate`: the simulator from the command line.

This module owns the options, the printed text, and the items that the simulator starts with. The URLs and keys that it
prints belong to the simulator and give access to nothing else.
"""

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from work_api_simulator.items import State
from work_api_simulator.profiles import PROFILES
from work_api_simulator.server import Address, SimulatorServer
from work_api_simulator.simulation import NewItem, Simulation

DEMO_ITEMS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorOptions:
    """The options of the command line."""

    listen: Address
    admin: Address
    profile_name: str
    ttl: int | None
    environment: str
    environment_key: str
    api_key: str
    empty: bool
    ready_file: Path | None
    history_limit: int | None
    until_stdin_closes: bool


class _AddressParameter(click.ParamType[Address]):
    """An option's value of the form `host:port`."""

    name = "host:port"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        """Return the address that the text names."""
        host, _, port = str(value).rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            self.fail(f"{value} is not an address: use host:port; port 0 means any free port", param, ctx)
        return Address(host.strip("[]"), int(port))


def _profiles_explained() -> str:
    """Return a paragraph for each profile, with what it does otherwise than the hosted service."""
    said = {
        "hosted": "the hosted service, as far as its behaviour is recorded.",
        "o": "one public server, in all that is known of it: ",
        "m": "another public server, in all that is known of it: ",
    }
    lines = (
        f"{name}: {said.get(name, '')}{', '.join(f'{switch}={value}' for switch, value in profile.differences.items())}"
        for name, profile in sorted(PROFILES.items())
    )
    return "\n\n".join(["Profiles, and what each does otherwise than the hosted service:", *lines])


@click.command("simulate", epilog=_profiles_explained())
@click.option(
    "--listen", type=_AddressParameter(), default="127.0.0.1:8090", show_default=True, help="Address of the Work API."
)
@click.option(
    "--admin",
    type=_AddressParameter(),
    default="127.0.0.1:8091",
    show_default=True,
    help="Address of the administration.",
)
@click.option(
    "--profile",
    "profile_name",
    type=click.Choice(sorted(PROFILES)),
    default="hosted",
    show_default=True,
    help="The server whose behaviour to simulate.",
)
@click.option("--ttl", type=click.IntRange(min=1), help="Default TTL in seconds, instead of the profile's.")
@click.option("--environment", default="env_demo", show_default=True, help="The environment to create.")
@click.option("--environment-key", default="demo-environment-key", show_default=True, help="The environment's key.")
@click.option("--api-key", default="demo-api-key", show_default=True, help="The organization's API key.")
@click.option("--empty", is_flag=True, help="Start without items.")
@click.option(
    "--ready-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Once the simulator listens, write its addresses and keys to this file, as one line of JSON.",
)
@click.option("--history-limit", type=click.IntRange(min=1), help="Number of history entries to keep.  [default: all]")
@click.option("--until-stdin-closes", is_flag=True, help="Stop when standard input closes.")
def simulate(**options: object) -> None:
    """Run a simulated Work API to try the operator with. It needs no account."""
    asked = SimulatorOptions(**options)  # type: ignore[arg-type]  # click has converted each by its type
    try:
        asyncio.run(_serve(asked))
    except OSError as error:
        raise click.ClickException(error.strerror or str(error)) from error


async def _serve(options: SimulatorOptions) -> None:
    profile = PROFILES[options.profile_name]
    if options.ttl is not None:
        profile = profile.with_default_ttl(options.ttl)
    simulation = Simulation(profile, options.history_limit)
    simulation.keyring.set_api_keys([options.api_key])
    simulation.keyring.set_environment_keys(options.environment, [options.environment_key])
    for item in () if options.empty else demo_items(options.environment):
        simulation.create(item)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    if options.until_stdin_closes:
        loop.add_reader(sys.stdin.fileno(), _end_at_eof, ended)
    server = SimulatorServer(simulation, options.profile_name)
    try:
        await server.start(options.listen, options.admin)
        _print_addresses(options, server)
        await ended.wait()
    finally:
        await server.close()


def _end_at_eof(ended: asyncio.Event) -> None:
    """End when the pipe is closed: however the parent died, its end of the pipe is closed."""
    if not os.read(sys.stdin.fileno(), 4096):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        ended.set()


def demo_items(environment_id: str) -> Iterator[NewItem]:
    """Return the items that the simulator starts with: acknowledged, waiting for their first heartbeat."""
    for number in range(1, DEMO_ITEMS + 1):
        yield NewItem(
            environment_id=environment_id, id=f"work_demo{number}", data_id=f"sesn_demo{number}", state=State.STARTING
        )


def _print_addresses(options: SimulatorOptions, server: SimulatorServer) -> None:
    """Print the addresses and keys for people, and write them to the ready file for programs."""
    work, admin = server.work.url, server.admin.url
    click.echo(f"The Work API listens on      {work}  (profile {options.profile_name})")
    click.echo(f"Its administration on        {admin}")
    click.echo(f"Environment                  {options.environment}")
    click.echo(f"Environment key (Bearer)     {options.environment_key}")
    click.echo(f"API key (x-api-key)          {options.api_key}")
    if not options.empty:
        click.echo(f"Items, acknowledged          work_demo1 .. work_demo{DEMO_ITEMS}")
        click.echo(f"Stop one:                    curl -X POST {admin}/items/work_demo1/stop")
    click.echo(f"Put work into the queue:     curl -X POST {admin}/sessions")
    click.echo(f"What it has seen:            curl {admin}/history")
    if options.ready_file is not None:
        ready = {
            "url": work,
            "admin_url": admin,
            "environment_id": options.environment,
            "environment_key": options.environment_key,
            "api_key": options.api_key,
            "pid": os.getpid(),
        }
        _write_atomically(options.ready_file, json.dumps(ready) + "\n")


def _write_atomically(path: Path, text: str) -> None:
    """Write a file so that readers see all of it or none of it."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    Path(name).replace(path)
