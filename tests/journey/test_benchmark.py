import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmark import chart, proc, report
from benchmark.figures import Row, Spread, Window
from benchmark.from_queue import Load, Stretch, Worked
from benchmark.report import BEGIN, END
from controlplane import ControlPlane
from support.processes import ROOT

SECONDS = 560.0  # it takes about eighty on two idle cores


def bench(*words: str, may_end_with: tuple[int, ...] = (0,)) -> str:
    """Run the benchmark as a program, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmark", *words],
        env={"PATH": "/usr/bin:/bin", "HOME": str(Path.home()), "PYTHONPATH": f"{ROOT / 'bench'}:{ROOT / 'tools'}"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode in may_end_with, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout or done.stderr[-3000:]


# The fixture is not used: it makes sure that the binaries are built before the time limit begins.
@pytest.mark.timeout(600)
@pytest.mark.long(seconds=120)
@pytest.mark.xdist_group("a control plane of its own 1")
def test_the_smallest_form_measures_all_contenders_and_writes_what_it_prints(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    assert control_plane.is_ready
    lines, document = tmp_path / "lines.jsonl", tmp_path / "performance.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    small = ("--sizes=12/4", "--window=12", "--pairs=1")
    printed = bench(*small, f"--lines={lines}", f"--document={document}")
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [row["contender"] for row in rows] == ["floor", "worklease", "tutorial"]
    for row in rows:
        assert all(window["beats"] > 0 for window in row["windows"]), row
        assert row["cpu_per_beat"] > 0
        assert row["contender"] in printed
    operator = rows[1]
    assert set(operator["all_beaten"]) == {"start", "kill -9", "SIGTERM"}
    assert operator["requests"]["patch workleases/status"] > 0
    assert all(operator[what]["max"] > 0 for what in ("stop_to_delete", "failure_to_stop", "loop_lag"))
    text = document.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert len(re.findall(r"^\| 12 \|", text, re.MULTILINE)) == 5
    assert "old" not in text


# A test cannot say whether time bounds hold on a busy machine; it checks that each is measured.
@pytest.mark.timeout(600)
@pytest.mark.long(seconds=100)
@pytest.mark.xdist_group("a control plane of its own 2")
def test_the_waves_come_to_a_small_fleet_and_every_bound_is_measured(control_plane: ControlPlane) -> None:
    assert control_plane.is_ready
    printed = bench("--waves", "--sizes=20/10", may_end_with=(0, 1))
    verdicts = re.findall(r"(?:held|BROKEN)\s*$", printed, re.MULTILINE)
    assert len(verdicts) == 6 * 2 + 8 + 1, printed


@pytest.mark.timeout(600)
@pytest.mark.long(seconds=100)
@pytest.mark.xdist_group("a control plane of its own 2")
def test_several_processes_are_measured_beside_one_against_each_bound(control_plane: ControlPlane) -> None:
    assert control_plane.is_ready
    printed = bench("--replicas=3", "--sizes=16/10", "--window=5", may_end_with=(0, 1))
    assert len(re.findall(r"(?:held|BROKEN)\s*$", printed, re.MULTILINE)) == 4, printed


def test_the_proxy_beside_a_worker_is_measured_against_each_of_its_bounds() -> None:
    printed = bench("--proxy", "--quick", may_end_with=(0, 1))
    assert len(re.findall(r"(?:held|BROKEN)\s*$", printed, re.MULTILINE)) == 10, printed


@pytest.mark.timeout(600)
@pytest.mark.long(seconds=30)
@pytest.mark.xdist_group("a control plane of its own 2")
def test_a_pool_is_measured_beside_kept_leases_and_against_each_of_its_bounds(control_plane: ControlPlane) -> None:
    assert control_plane.is_ready
    printed = bench("--pool", "--quick", may_end_with=(0, 1))
    assert len(re.findall(r"(?:held|BROKEN)\s*$", printed, re.MULTILINE)) == 2 + 2 * 6, printed
    for a_minute in (1, 50):
        assert re.search(rf"^\s*{a_minute} a minute, 12 kept\s+picked up", printed, re.MULTILINE), printed
    assert re.search(r"queued to Ready p50 / p95; no bound\s+\d+\.\d\d s / \d+\.\d\d s, of 2", printed), printed
    assert "nan" not in printed


def test_what_an_item_costs_is_what_the_operator_uses_above_its_use_at_rest_before_and_after() -> None:
    before, after = Stretch(0.0, 10.0, cpu=0.5), Stretch(70.0, 80.0, cpu=0.7)
    worked = Worked(Load(a_minute=30, sessions=30), Stretch(10.0, 70.0, cpu=6.6), (before, after), waited=())
    assert worked.cpu_per_item == pytest.approx((6.6 - 60 * 0.06) / 30)


def row(contender: str, leases: int, interval: float = 30.0) -> Row:
    """Return a row of a process that uses 0.05 s a second and 1 ms a beat, and 2,000 KiB and 20 KiB a lease."""
    late, beats = Spread(0.0, 0.1, 0.2), int(leases * 60 / interval)
    window = Window(
        seconds=60.0,
        beats=beats,
        cpu_seconds=0.05 * 60 + 0.001 * beats,
        server_cpu_seconds=0.0,
        late=late,
        lapses=0,
        machine_load=0.5,
    )
    memory = 20.0 + 2000 / leases
    return Row(contender=contender, leases=leases, interval=interval, windows=(window,), memory_per_lease=memory)


def test_what_is_paid_by_the_second_is_told_apart_from_what_is_paid_by_the_beat() -> None:
    sizes = (300, 3_000, 30_000)
    rows = [row(contender, leases) for leases in sizes for contender in ("floor", "worklease")]
    text = report.markdown([*rows, row("worklease", 600, interval=5.0)], "make bench", "a machine")
    assert (
        "A line through the 3 sizes at 30 s, by least squares: 50 ms of CPU a second for the process and 1.00 ms "
        "for each beat; 2 MiB for the process, above the empty one, and 20.0 KiB for each lease."
    ) in text
    assert "A line" not in report.markdown(rows[:-2], "make bench", "a machine")


def test_the_same_figures_make_the_same_picture(tmp_path: Path) -> None:
    rows = [row(contender, leases) for leases in (100, 1000) for contender in ("floor", "worklease")]
    rows.append(row("worklease", 7, interval=5.0))
    for name in ("one.svg", "other.svg"):
        chart.draw(rows, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()
    picture = (tmp_path / "one.svg").read_text()
    assert ">1,000<" in picture
    assert ">7<" not in picture


def test_what_stands_back_has_less_of_the_processor_and_so_has_its_session() -> None:
    waiting = [sys.executable, "-c", "input()"]
    with subprocess.Popen(waiting, stdin=subprocess.PIPE, start_new_session=True) as standing:
        try:
            proc.stand_back(standing.pid)
            assert os.getpriority(os.PRIO_PROCESS, standing.pid) == proc.BEHIND
            session = Path(f"/proc/{standing.pid}/autogroup")
            assert not session.exists() or session.read_text().split()[-1] == str(proc.BEHIND)
        finally:
            standing.kill()
