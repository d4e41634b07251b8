"""The root file system of the image: what `python -m worklease` needs, from the stage that built it.

Runs in the image's build stage, with the Python that the image will have and only the standard library. Copies files
from the base to the same path below a new root. Must not install or download anything, nor change the base.
"""

import os
import shutil
import ssl
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

VENV = Path("/opt/worklease")
UID = 65532  # as `nonroot` in distroless images; far from the users of any host
PROGRAMS = ("python", "python3", "worklease")
# From the standard library: its tests, development tools, graphics, and what is linked to a database or a terminal.
UNUSED_STANDARD_LIBRARY = (
    "test", "unittest", "doctest.py", "idlelib", "lib2to3", "ensurepip", "venv", "config-*", "pydoc_data",
    "tkinter", "_tkinter.*", "turtle.py", "turtledemo", "sqlite3", "_sqlite3.*", "dbm", "_dbm.*", "_gdbm.*",
    "curses", "_curses*", "readline.*", "xxlimited*", "_xx*", "_test*", "_ctypes_test.*", "_testcapi.*",
    "site-packages", "dist-packages", "EXTERNALLY-MANAGED",
)  # fmt: skip
# From the packages: their tests, the sources of compiled modules, and where this project was installed from.
UNUSED_OF_PACKAGES = (
    "test", "tests", "*_test.py", "test_*.py", "pytest_plugin.py", "*.pyx", "*.pxd", "*.pxi", "*.c", "*.h",
    "direct_url.json",
)  # fmt: skip
NEVER = ("__pycache__",)  # the base's bytecode depends on the times of its files
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
ACCOUNTS = {
    "etc/passwd": f"root:x:0:0:root:/:/nonexistent\nworklease:x:{UID}:{UID}:worklease:/:/nonexistent\n",
    "etc/group": f"root:x:0:\nworklease:x:{UID}:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
MOUNT_POINTS = ("dev", "proc", "sys")
ELF = b"\x7fELF"


class RootError(Exception):
    """Something is missing in the base; the message says what."""


class Root:
    """The new root, with the files that were copied from the base."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        for link in Path("/").iterdir():  # /lib and /lib64, if they point into /usr
            if link.is_symlink() and link.name.startswith("lib"):
                (path / link.name).symlink_to(link.readlink())

    def at(self, path: Path) -> Path:
        """Return where a path of the base is below the new root."""
        return self.path / path.relative_to("/")

    def in_base(self, path: Path) -> Path:
        """Return the path in the base, and in the image, of a path below the new root."""
        return Path("/") / path.relative_to(self.path)

    def write(self, path: str, text: str) -> None:
        """Write a file that is not from the base."""
        target = self.path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def bring(self, path: Path) -> None:
        """Copy a file to the new root. If it is a link, also copy what it points to."""
        target = self.at(path)
        if os.path.lexists(target):
            return
        if not path.exists():
            raise RootError(f"the base has no {path}")
        if path.is_dir():
            target.mkdir(parents=True)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target, follow_symlinks=False)
        if path.is_symlink():
            self.bring(_pointed_to(path))

    def bring_tree(self, path: Path, *without: str) -> None:
        """Copy a folder to the new root, except what matches `without`, and copy what its links point to."""
        shutil.copytree(path, self.at(path), symlinks=True, ignore=shutil.ignore_patterns(*without, *NEVER))
        for link in [each for each in self.files() if each.is_symlink()]:
            self.bring(_pointed_to(self.in_base(link)))

    def files(self) -> Iterator[Path]:
        """Yield everything in the new root except folders, always in the same order."""
        for folder, names, files in os.walk(self.path):
            links = [name for name in names if (Path(folder) / name).is_symlink()]
            names.sort()
            yield from (Path(folder) / name for name in sorted(files + links))


def main() -> None:
    """Build the root file system in the folder that the command line names."""
    root = Root(Path(sys.argv[1]))
    python_and_packages(root)
    shared_libraries(root)
    authorities_and_accounts(root)
    provenance(root)
    compile_bytecode(root)
    settle(root, int(os.environ.get("SOURCE_DATE_EPOCH", "0")))


def python_and_packages(root: Root) -> None:
    """Copy the interpreter, its standard library, and the environment with the locked packages."""
    root.bring_tree(Path(sysconfig.get_path("stdlib")), *UNUSED_STANDARD_LIBRARY)
    root.bring_tree(VENV / "lib", *UNUSED_OF_PACKAGES)
    root.bring(VENV / "pyvenv.cfg")
    for name in PROGRAMS:
        root.bring(VENV / "bin" / name)


def shared_libraries(root: Root) -> None:
    """Copy every library that a file in the root is linked to, including the loader."""
    for path in [path for path in root.files() if _is_elf(path)]:
        listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=False)  # noqa: S607
        for line in listed.stdout.splitlines():
            match line.split():
                case [name, "=>", "not", "found"]:
                    raise RootError(f"{root.in_base(path)} needs {name}, which the base does not have")
                case [_, "=>", found, _] | [found, _] if found.startswith("/"):
                    if not Path(found).is_relative_to(root.path):  # else a package brings its own
                        root.bring(Path(found))
                case _:
                    pass
    root.bring(Path("/etc/ld.so.cache"))


def authorities_and_accounts(root: Root) -> None:
    """Add the certificate authorities where OpenSSL looks for them, the user, and a runtime's mount points."""
    root.bring(AUTHORITIES)
    expected = root.at(Path(ssl.get_default_verify_paths().openssl_cafile))
    expected.parent.mkdir(parents=True, exist_ok=True)
    expected.symlink_to(AUTHORITIES)
    root.bring(Path("/etc/os-release"))
    for path, text in ACCOUNTS.items():
        root.write(path, text)
    for name in MOUNT_POINTS:
        (root.path / name).mkdir()
    (root.path / "tmp").mkdir()
    (root.path / "tmp").chmod(0o1777)


def provenance(root: Root) -> None:
    """Record the Debian packages of the files, where scanners look for them in such images, and their licences."""
    if shutil.which("dpkg-query") is None:
        return
    for package in sorted(_packages(str(root.in_base(path)) for path in root.files())):
        told = subprocess.run(["dpkg-query", "--status", package], capture_output=True, text=True, check=True)  # noqa: S607
        name = package.partition(":")[0]
        root.write(f"var/lib/dpkg/status.d/{name}", told.stdout)
        root.bring(Path("/usr/share/doc") / name / "copyright")


def _packages(files: Iterable[str]) -> set[str]:
    """Return the packages that own these files. Most files belong to none, such as those of the environment."""
    # Before Debian 13 some packages listed their files in /usr/lib under the name that the link /lib gives them.
    asked = [name for file in files if not file.startswith(str(VENV)) for name in {file, file.removeprefix("/usr")}]
    found = subprocess.run(["dpkg-query", "--search", *asked], capture_output=True, text=True, check=False)  # noqa: S607
    owners = (line.rpartition(": ")[0] for line in found.stdout.splitlines() if not line.startswith("diversion by"))
    return {name for names in owners for name in names.split(", ")}


def compile_bytecode(root: Root) -> None:
    """Compile everything, independent of the sources' times: an image may give its files other times."""
    mode = ("-q", "-j0", "--invalidation-mode", "unchecked-hash")
    subprocess.run([sys.executable, "-m", "compileall", *mode, "-s", root.path, "-p", "/", root.path], check=True)


def settle(root: Root, time: int) -> None:
    """Give everything the same owner and time, and let only the owner write."""
    for path in [*root.path.rglob("*"), root.path]:
        os.chown(path, 0, 0, follow_symlinks=False)
        if not path.is_symlink() and path != root.path / "tmp":
            path.chmod(path.stat().st_mode & ~(stat.S_IWGRP | stat.S_IWOTH | stat.S_ISUID | stat.S_ISGID))
        os.utime(path, (time, time), follow_symlinks=False)


def _pointed_to(link: Path) -> Path:
    """Return where a link points, one step on."""
    return Path(os.path.normpath(link.parent / link.readlink()))


def _is_elf(path: Path) -> bool:
    """Return whether this is a program or a library, and not a link to one."""
    if path.is_symlink():
        return False
    with path.open("rb") as file:
        return file.read(len(ELF)) == ELF


if __name__ == "__main__":
    main()
