"""The benchmark as a program: ``python -m benchmark``, or ``make bench``.

The composition root: opens the control plane, the Work API and the fleet, and closes them however it ends.
"""

import os
import platform
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import click
from rich.console import Console

from benchmark import behind_proxy, chart, from_queue, proc, report
from benchmark.audit import AuditLog
from benchmark.course import Course, Size
from benchmark.figures import Row
from benchmark.fleet import NAMESPACE, OPERATOR, Fleet
from benchmark.from_queue import FromQueue
from benchmark.replicas import Replicas
from benchmark.stage import Stage
from benchmark.waves import Bound, Waves
from controlplane import OwnControlPlane, ensure
from controlplane.own import BINARIES

ROOT: Final = Path(__file__).parents[2]
RESOURCES: Final = ROOT / "crds"
NODES: Final = 4
SIZES: Final = "1000/5,5000/30,10000/30"
QUICK_SIZES: Final = "50/5"
POOL_SIZES: Final = "5000/30"
QUICK_POOL_SIZES: Final = "12/1"
CHART_SIZES: Final = "1000/5,100/30,1000/30,5000/30,10000/30,20000/30"

MOST_OF_TUTORIAL: Final = 10_000
"""The most leases with which the tutorial is measured: it breaks down long before."""


class Sizes(click.ParamType[tuple[Size, ...]]):
    """Sizes such as ``1000/5,10000/30``: leases, and the seconds between two beats of one lease."""

    name = "sizes"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Size, ...]:
        """Parse the sizes."""
        if isinstance(value, tuple):
            return value
        try:
            pairs = [part.split("/") for part in str(value).split(",")]
            return tuple(Size(leases=int(leases), interval=float(interval)) for leases, interval in pairs)
        except ValueError:
            self.fail(
                f"{value!r} does not look like 1000/5,10000/30: leases, and the seconds between two beats", param, ctx
            )


@click.command()
@click.option("--sizes", type=Sizes(), default=None, help=f"Leases and seconds between beats.  [default: {SIZES}]")
@click.option("--quick", is_flag=True, help=f"The smallest form, for a smoke test: {QUICK_SIZES}, in a minute.")
@click.option("--window", type=float, default=None, help="Length of one window in seconds.  [default: 60]")
@click.option("--pairs", type=int, default=None, help="Windows per contender.  [default: 3]")
@click.option("--tutorial/--no-tutorial", default=True, help="Whether to measure the tutorial's operator as well.")
@click.option("--waves", is_flag=True, help="Hit the whole fleet with waves instead, and check their bounds.")
@click.option(
    "--replicas",
    type=click.IntRange(min=2, max=16),
    help="Measure so many processes beside one, and check their bounds.",
)
@click.option("--proxy", is_flag=True, help="Measure the proxy beside a worker instead, and check its bounds.")
@click.option("--pool", is_flag=True, help="Measure a pool instead, beside kept leases, and check its bounds.")
@click.option("--lines", type=click.Path(dir_okay=False, path_type=Path), help="Append the figures as JSON lines.")
@click.option(
    "--document", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Write the tables there."
)
@click.option("--chart", "picture", type=click.Path(dir_okay=False, path_type=Path), help="Draw cost against size.")
def main(
    sizes: tuple[Size, ...] | None,
    *,
    quick: bool,
    window: float | None,
    pairs: int | None,
    tutorial: bool,
    waves: bool,
    replicas: int | None,
    proxy: bool,
    pool: bool,
    lines: Path | None,
    document: Path | None,
    picture: Path | None,
) -> None:
    """Measure what a lease costs, beside a bare HTTP loop and the usual Kopf operator."""
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    usual = QUICK_SIZES if quick else CHART_SIZES if picture else SIZES
    if pool:
        usual = QUICK_POOL_SIZES if quick else POOL_SIZES
    chosen = sizes or Sizes().convert(usual, None, None)
    signal.signal(signal.SIGTERM, _interrupted)
    if proxy:
        sys.exit(0 if behind_proxy.run(console, quick=quick) else 1)
    if pool:
        sys.exit(0 if _pool(chosen[-1], window, console, quick=quick) else 1)
    if waves:
        sys.exit(0 if _waves(chosen[-1], console) else 1)
    if replicas is not None:
        sys.exit(0 if _replicas(chosen[-1], replicas, window or (10.0 if quick else 60.0), console) else 1)
    rows: list[Row] = []
    for course in _courses(chosen, window or (10.0 if quick else 60.0), pairs or (1 if quick else 3), console):
        measured = course.run(with_tutorial=tutorial and course.size.leases <= MOST_OF_TUTORIAL)
        rows += measured
        if lines is not None:
            report.write_lines(measured, lines)
        report.show(rows, console)
        # After each size, so that an hour's results survive a failure of the next size.
        if document is not None:
            report.write_document(rows, document, os.environ.get("BENCH_COMMAND", "make bench"), machine())
        if picture is not None:
            chart.draw(rows, picture)


def _waves(size: Size, console: Console) -> bool:
    """Hit a fleet with the waves, show their bounds, and return whether all held."""
    with _opened() as (plane, stage):
        course = _course(plane, stage, size, console)
        course.say(f"creating {size.leases} pods")
        course.fleet.grow_pods(size.leases)
        bounds: list[Bound] = []
        for bound in Waves(course=course, plane=plane, stopped=max(1, size.leases // 10)).run():
            # At once, so that this result survives a failure of the next wave.
            course.say(f"{'held' if bound.held else 'BROKEN'}: {bound.what}: {bound.measured}")
            bounds.append(bound)
    report.show_bounds(bounds, console)
    return all(bound.held for bound in bounds)


def _replicas(size: Size, count: int, window: float, console: Console) -> bool:
    """Measure several processes over one fleet, show their bounds, and return whether all held."""
    with _opened() as (plane, stage):
        course = replace(_course(plane, stage, size, console), window=window)
        course.say(f"creating {size.leases} resources and their pods")
        course.fleet.grow(size.leases)
        bounds = list(Replicas(course=course, plane=plane, count=count).run())
    report.show_bounds(bounds, console)
    return all(bound.held for bound in bounds)


def _pool(size: Size, window: float | None, console: Console, *, quick: bool) -> bool:
    """Measure a pool, show its bounds, and return whether all held."""
    window = window or from_queue.WINDOW
    with _opened() as (plane, stage):
        fleet = Fleet(plane)
        fleet.prepare()
        measured = FromQueue(
            plane=plane,
            fleet=fleet,
            stage=stage,
            api=stage.start_simulator(from_queue.ttl(size)),
            audit=AuditLog(plane.audit_log, OPERATOR),
            kubeconfig=plane.service_account_kubeconfig(NAMESPACE, "operator"),
            size=size,
            quiet=from_queue.QUICK_QUIET if quick else window / 2,
            lasts=from_queue.QUICK_LASTS if quick else from_queue.LASTS,
            is_quick=quick,
            say=Say(console, size),
        )
        phases = from_queue.quick_phases(size) if quick else from_queue.phases(size, window)
        bounds = list(measured.run(phases))
    report.show_bounds(bounds, console)
    return all(bound.held for bound in bounds)


def _courses(sizes: Sequence[Size], window: float, pairs: int, console: Console) -> Iterator[Course]:
    """Open everything and yield the course of each size, with its fleet created."""
    with _opened() as (plane, stage):
        course: Course | None = None
        for size in sizes:
            if course is None:
                course = _course(plane, stage, size, console)
            else:
                course.fleet.clear()
            course = replace(course, size=size, window=window, pairs=pairs, say=Say(console, size))
            course.say(f"creating {size.leases} resources and their pods")
            course.fleet.grow(size.leases)
            yield course


def _course(plane: OwnControlPlane, stage: Stage, size: Size, console: Console) -> Course:
    """Open the Work API and prepare an empty fleet."""
    fleet = Fleet(plane)
    fleet.prepare()
    return Course(
        fleet=fleet,
        stage=stage,
        api=stage.start_work_api(),
        floor_api=stage.start_work_api("floor-work-api"),
        audit=AuditLog(plane.audit_log, OPERATOR),
        kubeconfig=plane.service_account_kubeconfig(NAMESPACE, "operator"),
        size=size,
        window=0.0,
        pairs=0,
        say=Say(console, size),
    )


@contextmanager
def _opened() -> Iterator[tuple[OwnControlPlane, Stage]]:
    with ExitStack() as opened:
        plane = OwnControlPlane(nodes=NODES, binaries=ensure(BINARIES))
        opened.callback(plane.close)
        # In a cluster it runs on other machines, where its work for thousands of pods takes no CPU from the operator.
        proc.stand_back(plane.reaper_pid)
        opened.enter_context(plane)
        stage = opened.enter_context(Stage())
        plane.kubectl("apply", "--server-side", "-f", str(RESOURCES))
        plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(RESOURCES))
        yield plane, stage


class Say:
    """Shows the progress."""

    def __init__(self, console: Console, size: Size) -> None:
        self._console = console
        self._size = f"{size.leases}/{size.interval:g}"

    def __call__(self, text: str) -> None:
        """Show one line."""
        self._console.print(f"[dim]{self._size:>9}[/]  {text}")


def machine() -> str:
    """Describe this machine in a few words."""
    cores, python = os.cpu_count(), platform.python_version()
    return f"{cores} cores ({platform.machine()}), CPython {python}, load generator and API server beside it"


def _interrupted(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main(prog_name="python -m benchmark")
