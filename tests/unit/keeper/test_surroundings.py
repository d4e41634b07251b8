"""A process is told from the one before it in the same place, and from another one that got its pid."""

import os
import subprocess
import sys
from pathlib import Path

from worklease.keeper.surroundings import own_holder, running
from worklease.rules.tenure import is_heir, read_holder


def test_a_process_finds_itself_running_and_its_name_can_be_read() -> None:
    own = own_holder("pod-uid")
    assert read_holder(str(own)) == own
    assert (own.place, own.pid) == ("pod-uid", os.getpid())
    assert (own.pid, own.started) in running()


def test_two_starts_have_two_names_even_where_the_system_does_not_tell_them_apart(tmp_path: Path) -> None:
    assert own_holder("pod-uid", tmp_path) != own_holder("pod-uid", tmp_path)


def test_outside_of_a_pod_the_place_is_the_boot_and_the_pid_namespace() -> None:
    assert own_holder(None).place == own_holder(None).place
    assert "/" not in own_holder(None).place


def test_without_a_proc_nobody_is_found_dead(tmp_path: Path) -> None:
    former = own_holder(None, tmp_path)
    assert not is_heir(own_holder(None, tmp_path), str(former), running(tmp_path))


def test_who_was_killed_in_the_same_place_is_found_dead_and_a_zombie_runs_no_more() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        started = dict(running())[other.pid]
        assert (other.pid, started) in running()
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie until it is waited for
        assert (other.pid, started) not in running()


def test_a_name_with_spaces_and_parentheses_hides_no_start(tmp_path: Path) -> None:
    process = tmp_path / "7"
    process.mkdir()
    fields = " ".join(str(number) for number in range(4, 30))
    (process / "stat").write_text(f"7 (a) name) S {fields}\n", "utf-8")
    (tmp_path / "8").mkdir()
    assert running(tmp_path) == {(7, 22)}
