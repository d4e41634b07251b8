"""The promises of the built image: how it runs, what it may do, and what it does not contain."""

import json
import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from image.building import ARCHIVE, REPOSITORY, VERSION, Sources
from image.container import Container

pytestmark = pytest.mark.image

UID = 65532
MOST_BYTES = 60_000_000  # compressed: it has 43 MB today, and an accidental dependency would exceed this
ADDRESS = re.compile(r"The Work API listens on +(http://127\.0\.0\.1:\d+)")
LISTENS = re.compile(r"listening on 127\.0\.0\.1:(\d+)")
SHELLS = ("sh", "bash", "dash", "busybox")
COMPILERS = ("cc", "gcc", "c++", "g++", "clang", "tcc", "ld", "as", "make", "cargo", "rustc", "go")
INSTALLERS = ("pip", "pip3", "uv", "easy_install", "apt", "apt-get", "dpkg", "apk")

# Each module's bytecode is bound to its source by a hash, is never checked against a time, and matches this source.
CHECK_BYTECODE = """
import importlib.util, json, pathlib, sys
wrong, right = [], 0
for place in sys.argv[1:]:
    for source in pathlib.Path(place).rglob("*.py"):
        code = pathlib.Path(importlib.util.cache_from_source(source))
        header = code.read_bytes()[:16] if code.exists() else b""
        want = importlib.util.MAGIC_NUMBER + b"\\1\\0\\0\\0" + importlib.util.source_hash(source.read_bytes())
        right += header == want
        if header != want:
            wrong.append(str(source))
print(json.dumps([right, wrong]))
"""
LOAD_LIBRARIES = """
import ctypes, pathlib, sys
for path in sorted(each for place in sys.argv[1:] for each in pathlib.Path(place).rglob("*.so*")):
    ctypes.CDLL(str(path))
    print(path)
"""
IMPORT_ALL = """
import importlib, pkgutil, work_api_simulator, worklease, worklease_proxy
for package in (worklease, work_api_simulator, worklease_proxy):
    for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if each.name != "work_api_simulator.__main__":
            importlib.import_module(each.name)
            print(each.name)
"""
COUNT_AUTHORITIES = "import ssl; print(ssl.create_default_context().cert_store_stats()['x509_ca'])"
WHO = "import json, os; print(json.dumps([os.getresuid(), os.getresgid(), os.getgroups(), os.environ['PATH']]))"
WRITE = """
import errno, os, sys
for place in ("/", "/tmp", "/opt/worklease", "/etc"):
    try:
        open(os.path.join(place, "x"), "w")
    except OSError as error:
        print(place, errno.errorcode[error.errno])
"""


def packages(container: Container) -> Path:
    (found,) = container.root.glob("opt/worklease/lib/python3.*/site-packages")
    return found


def standard_library(container: Container) -> Path:
    (found,) = {path.parent for path in container.root.glob("usr/**/python3.*/asyncio")}
    return found


def within(container: Container, path: Path) -> str:
    return f"/{path.relative_to(container.root)}"


def programs(container: Container) -> set[str]:
    # Links are compared by name: their targets are elsewhere outside the image.
    return {
        path.name
        for path in container.root.rglob("*")
        if path.is_symlink() or (path.is_file() and path.stat().st_mode & 0o111)
    }


def python(container: Container, code: str, *arguments: str) -> str:
    done = container.run("python", "-c", code, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@contextmanager
def simulating(container: Container) -> Iterator[tuple[subprocess.Popen[str], str]]:
    argv = container.argv(*container.entrypoint, "simulate", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            told = ADDRESS.match(process.stdout.readline())
            assert told is not None
            yield process, told[1]
        finally:
            process.kill()


def test_the_program_says_its_version(container: Container) -> None:
    for words in (["worklease"], container.entrypoint):
        done = container.run(*words, "--version")
        assert (done.returncode, done.stderr) == (0, "")
        assert VERSION in done.stdout


def test_the_simulator_answers_on_the_loopback_and_ends_when_told(container: Container) -> None:
    with simulating(container) as (process, url):
        request = urllib.request.Request(  # noqa: S310  # the loopback interface only
            f"{url}/v1/environments/env_demo/work", headers={"Authorization": "Bearer demo-environment-key"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=10) as answer:
            items = json.loads(answer.read())["data"]
        assert {item["id"] for item in items} == {f"work_demo{number}" for number in range(1, 5)}
        status = Path("/proc", str(process.pid), "status").read_text()
        assert re.search(rf"^Uid:\t{UID}\t{UID}\t{UID}\t{UID}$", status, re.MULTILINE)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


def test_the_proxy_of_a_sandbox_starts_answers_its_probe_and_hears_its_hook(container: Container) -> None:
    item = {"ANTHROPIC_ENVIRONMENT_ID": "env_demo", "ANTHROPIC_WORK_ID": "work_demo1", "WORKLEASE_PROXY_PORT": "0"}
    argv = container.argv(*container.entrypoint, "proxy", "--termination-log=/dev/null", **item)
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            told = LISTENS.search(process.stderr.readline())
            assert told is not None
            ready = container.run("worklease", "proxy", "--ready", WORKLEASE_PROXY_PORT=told[1])
            assert (ready.returncode, json.loads(ready.stdout)["state"]) == (0, "starting")
            drained = container.run("worklease", "proxy", "--drain", WORKLEASE_PROXY_PORT=told[1])
            assert (drained.returncode, json.loads(drained.stdout)["state"]) == (0, "stopping")
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()


def test_the_operator_starts_and_says_that_it_has_no_cluster(container: Container) -> None:
    done = container.run(*container.entrypoint, *container.command)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no Kubernetes credentials" in done.stderr.splitlines()[-1]


def test_it_runs_the_operator_as_a_user_without_rights(container: Container) -> None:
    assert (container.entrypoint, container.command) == (["python", "-m", "worklease"], ["run"])
    assert container.user == f"{UID}:{UID}"
    assert json.loads(python(container, WHO)) == [[UID] * 3, [UID] * 3, [], "/opt/worklease/bin"]


def test_its_root_needs_no_writing(container: Container) -> None:
    assert python(container, WRITE).splitlines() == [f"{at} EROFS" for at in ("/", "/tmp", "/opt/worklease", "/etc")]


def test_its_user_owns_nothing_and_may_write_nowhere_but_to_tmp(container: Container) -> None:
    inside = [path for path in container.root.rglob("*") if not path.is_symlink()]
    assert [path for path in inside if (path.stat().st_uid, path.stat().st_gid) != (0, 0)] == []
    assert [within(container, path) for path in inside if path.stat().st_mode & 0o022] == ["/tmp"]
    assert [path for path in inside if path.is_file() and path.stat().st_mode & 0o6000] == []


@pytest.mark.parametrize("names", [SHELLS, COMPILERS, INSTALLERS], ids=["shell", "compiler", "installer"])
def test_there_is_none_in_it(container: Container, names: tuple[str, ...]) -> None:
    there = programs(container)
    assert {"python", "worklease"} <= there
    assert there & set(names) == set()


def test_nothing_in_it_installs_packages(container: Container) -> None:
    for name in ("pip", "ensurepip", "setuptools", "hatchling", "venv"):
        done = container.run("python", "-c", f"import {name}")
        assert f"No module named '{name}'" in done.stderr


def test_no_test_is_in_it(container: Container) -> None:
    names = re.compile(r"tests?|test_.*\.pyc?|.*_test\.pyc?|conftest\.pyc?|unittest|doctest\.pyc?|_?pytest")
    assert [within(container, path) for path in container.root.rglob("*") if names.fullmatch(path.name)] == []


def test_every_module_has_bytecode_that_is_valid_whatever_the_times_of_files(container: Container) -> None:
    places = [packages(container), standard_library(container)]
    right, wrong = json.loads(python(container, CHECK_BYTECODE, *(within(container, each) for each in places)))
    assert wrong == []
    assert right == sum(1 for place in places for _ in place.rglob("*.py"))


def test_every_library_in_it_finds_what_it_is_linked_to(container: Container) -> None:
    places = [packages(container), standard_library(container)]
    loaded = python(container, LOAD_LIBRARIES, *(within(container, each) for each in places)).splitlines()
    assert any("pydantic_core" in path for path in loaded)
    assert any("_ssl" in path for path in loaded)


def test_every_module_of_the_package_can_be_imported(container: Container) -> None:
    assert {"worklease.keeper.keeper", "work_api_simulator.command"} <= set(python(container, IMPORT_ALL).split())


@pytest.mark.parametrize("package", ["worklease", "work_api_simulator"])
def test_it_is_made_of_these_sources(container: Container, package: str) -> None:
    source, built = REPOSITORY / "operator" / package, packages(container) / package
    assert {path.relative_to(source): path.read_bytes() for path in source.rglob("*.py")} == {
        path.relative_to(built): path.read_bytes() for path in built.rglob("*.py")
    }


def test_its_packages_are_the_locked_ones(container: Container) -> None:
    lock = (REPOSITORY / "requirements" / "runtime.txt").read_text()
    locked = {(name, version) for name, version in re.findall(r"^(\S+)==(\S+)", lock, re.MULTILINE)}
    code = (
        "import importlib.metadata as m, json; "
        "print(json.dumps([[d.metadata['Name'], d.version] for d in m.distributions()]))"
    )
    found = {(re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in json.loads(python(container, code))}
    assert found == locked | {("worklease", VERSION)}


def test_it_trusts_the_public_certificate_authorities(container: Container) -> None:
    assert int(python(container, COUNT_AUTHORITIES)) > 100


def test_it_is_small() -> None:
    assert ARCHIVE.stat().st_size < MOST_BYTES


def test_its_labels_say_what_it_is_made_of(container: Container) -> None:
    sources = Sources.of_repository()
    prefix = "org.opencontainers.image."
    told = {name.removeprefix(prefix): value for name, value in container.labels.items() if name.startswith(prefix)}
    assert told["title"] == "worklease-operator"
    assert told["version"] == VERSION
    assert told["revision"] == sources.revision
    assert told["created"] == sources.created
    assert told["licenses"] == "Apache-2.0"


def test_scanners_find_the_debian_packages_and_readers_their_licences(container: Container) -> None:
    told = container.root / "var" / "lib" / "dpkg" / "status.d"
    names = {path.name for path in told.iterdir()}
    assert {"libc6", "zlib1g"} <= names
    assert all("\nVersion: " in (told / name).read_text() for name in names)
    assert {name for name in names if not (container.root / "usr/share/doc" / name / "copyright").is_file()} == set()


def test_nothing_of_the_machine_that_built_it_is_in_it(container: Container) -> None:
    names = {"pip.conf", "sources.list", "sources.list.d", "auth.conf", "auth.conf.d", ".netrc", "direct_url.json"}
    assert [within(container, path) for path in container.root.rglob("*") if path.name in names] == []
    assert set(container.environment) == {"PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONSAFEPATH", "PYTHONUNBUFFERED"}
