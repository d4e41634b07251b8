"""`worklease simulate` as a process: what it starts with, and how it ends."""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from support.judge import check_history
from support.processes import is_alive, python_environment
from support.simulator import Simulator
from work_api_simulator.command import simulate
from work_api_simulator.profiles import PROFILES


def beat(simulator: Simulator, item: str, expected: str = "NO_HEARTBEAT") -> httpx.Response:
    return httpx.post(
        f"{simulator.url}/v1/environments/{simulator.environment_id}/work/{item}/heartbeat",
        params={"expected_last_heartbeat": expected},
        headers={"Authorization": f"Bearer {simulator.environment_key}"},
        trust_env=False,
    )


def test_a_newcomer_finds_items_that_wait_for_their_first_heartbeat() -> None:
    with Simulator("--ttl=15", empty=False) as simulator:
        assert (simulator.environment_id, simulator.environment_key) == ("env_demo", "demo-environment-key")
        assert simulator.api_key == "demo-api-key"
        items = simulator.items()
        assert [item["id"] for item in items] == [f"work_demo{number}" for number in range(1, 5)]
        assert {item["state"] for item in items} == {"starting"}
        answer = beat(simulator, "work_demo1")
        assert (answer.status_code, answer.json()["ttl_seconds"]) == (200, 15)
        for shown in (simulator.url, simulator.admin_url, "demo-environment-key", "demo-api-key", "env_demo"):
            assert shown in simulator.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_when_asked_even_while_a_request_hangs(number: signal.Signals) -> None:
    with Simulator() as simulator:
        simulator.create_item("work_1")
        simulator.inject("hang")
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{simulator.url}/v1/environments/env_demo/work/work_1/heartbeat", timeout=0.3, trust_env=False)
        simulator.process.signal(number)
        assert simulator.process.wait(10) == 0
        assert "Traceback" not in simulator.log()


STARTS_ONE = """
import subprocess, sys
command = [sys.executable, "-m", "work_api_simulator", "--listen=127.0.0.1:0", "--admin=127.0.0.1:0"]
print(subprocess.Popen([*command, "--until-stdin-closes"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL).pid)
sys.stdout.flush()
input()
"""


def test_it_ends_with_the_process_that_started_it_however_that_ends() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", STARTS_ONE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=python_environment(),
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    with parent, parent.stdin, parent.stdout:
        started = int(parent.stdout.readline())
        assert is_alive(started)
        parent.kill()
        parent.wait()
    deadline, pause = time.monotonic() + 10, threading.Event()
    while is_alive(started):
        assert time.monotonic() < deadline, "it outlived the process that started it"
        pause.wait(0.02)


def test_the_administration_does_what_its_typed_client_asks() -> None:
    with Simulator() as simulator:
        simulator.set_environment_keys("env_two", "key-two")
        simulator.create_item("work_1", ttl_seconds=30, metadata={"a": "1"})
        simulator.create_item("sesn_2", environment_id="env_two", state="queued")
        assert beat(simulator, "work_1").json()["ttl_seconds"] == 30
        assert simulator.item("work_1")["last_heartbeat"]
        assert simulator.steal_item("work_1")["state"] == "active"
        assert simulator.impose_ttl("work_1", 7)["state"] == "active"
        assert simulator.rotate_token("work_1") == simulator.item("work_1")["sessions_token"]
        assert simulator.stop_item("work_1")["state"] == "stopping"
        assert simulator.stop_item("work_1", force=True)["state"] == "stopped"
        since = simulator.last_seq()
        assert simulator.requeue_item("work_1", state="starting")["deliveries"] == 2
        assert [entry["event"] for entry in simulator.history("work_1", since=since)] == ["requeued"]
        simulator.outage("refuse")
        with pytest.raises(httpx.ConnectError):
            beat(simulator, "work_1")
        simulator.outage("off")
        simulator.remove_fault(simulator.inject("status", status=500, times=None))
        assert beat(simulator, "work_1").status_code == 200
        simulator.wait_for(lambda history: history[-1]["status"] == 200, item="work_1")
        simulator.delete_item("work_1")
        assert beat(simulator, "work_1").status_code == 404
        simulator.set_environment_keys(simulator.environment_id)
        assert beat(simulator, "work_1").status_code == 401
        with pytest.raises(RuntimeError, match="There is no item work_1"):
            simulator.item("work_1")
        assert check_history(simulator.history()) == []


def test_a_port_that_is_taken_is_one_clear_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = subprocess.run(
            [sys.executable, "-m", "work_api_simulator", f"--listen=127.0.0.1:{port}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == 1
    assert ended.stderr == f"Error: Cannot listen on 127.0.0.1:{port}: {os.strerror(errno.EADDRINUSE)}\n"


@pytest.mark.parametrize("address", ["8090", "127.0.0.1:", "127.0.0.1:70000", "localhost:http"])
def test_an_address_that_is_none_is_refused_with_the_form_it_should_have(address: str) -> None:
    result = CliRunner().invoke(simulate, ["--listen", address])
    assert result.exit_code == 2
    assert "host:port" in result.output


def test_all_addresses_are_those_of_both_families() -> None:
    with Simulator("--listen=[::]:0", "--admin=[::]:0") as simulator:
        ports = [url.rpartition(":")[2] for url in (simulator.url, simulator.admin_url)]
        hosts = ["127.0.0.1", "[::1]"] if socket.has_dualstack_ipv6() else ["127.0.0.1"]
        answers = [httpx.get(f"http://{host}:{port}/", trust_env=False) for host in hosts for port in ports]
        assert [answer.status_code for answer in answers] == [404, 200] * len(hosts)


def test_an_unknown_profile_is_refused_with_the_known_ones() -> None:
    result = CliRunner().invoke(simulate, ["--profile", "imaginary"])
    assert result.exit_code == 2
    assert "hosted" in result.output


def test_the_package_needs_nothing_of_the_operator() -> None:
    folder = Path(simulate.callback.__code__.co_filename).parent if simulate.callback else Path()
    modules = sorted(folder.glob("*.py"))
    assert folder / "server.py" in modules
    imported = {
        line.split()[1]
        for module in modules
        for line in module.read_text(encoding="utf-8").splitlines()
        if line.startswith(("from worklease", "import worklease"))
    }
    assert imported == set()


def test_the_help_says_what_each_profile_does_otherwise_than_the_hosted_service() -> None:
    told = " ".join(
        CliRunner().invoke(simulate, ["--help"], terminal_width=1000, max_content_width=1000).output.split()
    )
    assert "m: another public server, in all that is known of it: beat_on_queued=200-unextended" in told
    assert all(f" {name}: " in told for name in PROFILES)
