"""What is in the image, how large it is, and how much time the bytecode saves, measured.

Must not judge: tests/image does.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from image.building import REFERENCE, Sources
from image.container import Container

PACKAGES_NAMED = 4  # the largest ones; the others are small
RUNS = 3  # the fastest counts: the others waited for the machine
NO_BYTECODE = {"PYTHONPYCACHEPREFIX": "/none"}
MEGABYTE = 1e6


def listing(container: Container, sources: Sources, compressed: int) -> str:
    """Return the parts of the image by size; bytecode counts to the part that it belongs to."""
    sizes: Counter[str] = Counter()
    bytecode = 0
    for path in _files(container.root):
        size = path.lstat().st_size
        sizes[_part(path.relative_to(container.root))] += size
        bytecode += size if path.suffix == ".pyc" else 0
    packages = [part for part, _ in sizes.most_common() if part.startswith("package ")]
    for part in packages[PACKAGES_NAMED:]:
        sizes[f"{len(packages) - PACKAGES_NAMED} more packages"] += sizes.pop(part)
    total = sum(sizes.values())
    quick, slow = _seconds(container), _seconds(container, **NO_BYTECODE)
    lines = [
        f"{REFERENCE}, revision {sources.revision}, of {sources.created}",
        f"{_megabytes(total)} in all, {_megabytes(compressed)} compressed:",
        *(f"  {_megabytes(size):>8}  {part}" for part, size in sizes.most_common()),
        f"{_megabytes(bytecode)} of it is bytecode: `worklease --version` takes {quick:.1f} s, {slow:.1f} s without.",
    ]
    return "\n".join(lines)


def _part(path: Path) -> str:
    """Return the part of the image that a file belongs to."""
    match path.parts:
        case ["opt", "worklease", "lib", _, "site-packages", name, *_]:
            return f"package {name}" if not name.endswith((".dist-info", ".py")) else "packages' metadata"
        case ["usr", "lib" | "lib64", name, *_] if name.endswith("-linux-gnu"):
            return "libraries that Python and the packages are linked to"
        case ["usr", "share", "doc", *_] | ["var", *_]:
            return "licences, and the package list for scanners"
        case ["etc", "ssl", *_]:
            return "certificate authorities"
        case ["etc", *_]:
            return "accounts, and the loader's cache"
        case _:
            return "Python: interpreter and standard library"


def _files(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        yield from (Path(folder, name) for name in names)


def _seconds(container: Container, **environment: str) -> float:
    """Return how long the program takes to print its version: to import what it needs."""
    taken = []
    for _ in range(RUNS):
        began = time.monotonic()
        container.run("worklease", "--version", **environment)
        taken.append(time.monotonic() - began)
    return min(taken)


def _megabytes(size: int) -> str:
    return f"{size / MEGABYTE:.1f} MB"
