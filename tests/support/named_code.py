"""Names of code in documents: which of them are defined, and where.

Owns the reading of code by its syntax; nothing is imported. Must not judge a document.
"""

import ast
import gc
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "operator" / "worklease"


def parse(source: str) -> ast.Module:
    gc.disable()  # on 3.11 the parser does not bear a finalizer of another test's garbage that runs within it
    try:
        return ast.parse(source)
    finally:
        gc.enable()


@cache
def parsed(path: Path) -> ast.Module:
    return parse(path.read_text("utf-8"))


def spans(text: str) -> list[str]:
    """Give what stands in code font."""
    return re.findall(r"`([^`\n]+)`", text)


def names(body: list[ast.stmt]) -> Iterator[tuple[str, list[ast.stmt]]]:
    """Give what a body defines, each with the body of its own."""
    for statement in body:
        match statement:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield statement.name, statement.body
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name, []
            case _:
                pass


def is_defined(name: str) -> bool:
    """Tell whether a dotted name, such as ``conflicts._is_ours``, is a module's, and defined there."""
    found = _module(name)
    if found is None:
        return False
    file, path = found
    body = parsed(file).body
    for part in path:
        inner = dict(names(body)).get(part)
        if inner is None:
            return False
        body = inner
    return True


def _module(name: str) -> tuple[Path, list[str]] | None:
    """Find the one module that a dotted name begins with, and what is named in it; ``client`` alone is two."""
    parts = name.split(".")
    for length in range(1, len(parts)):
        files = list(PACKAGE.rglob("/".join(parts[:length]) + ".py"))
        if len(files) == 1:
            return files[0], parts[length:]
    return None


@cache
def claims() -> frozenset[str]:
    """Give the names of all tests."""
    return frozenset(
        statement.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for statement in parsed(path).body
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef) and statement.name.startswith("test_")
    )


def rows(path: Path, heading: str) -> list[list[str]]:
    """Give the cells of the table below a heading, without its head."""
    section = re.split(r"\n#+ ", path.read_text("utf-8").partition(f"\n{heading}\n")[2])[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
