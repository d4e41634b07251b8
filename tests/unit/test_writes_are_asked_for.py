"""Each write, of Kubernetes or of the Work API, is asked for right before it is sent: nothing is waited for in between.

Another process may have taken the bucket while this one waited. What is found here is found by reading the code: it
must not depend on a history in which that happens.
"""

import ast
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Final, TypeAlias

import worklease
from support.named_code import parse

ROOT: Final = Path(worklease.__file__).parent
FOLDERS: Final = ("cluster", "keeper", "observability", "pools", "watching")

OF_THE_PROCESS: Final = {
    "liveness_leases.py": "its own liveness Lease, which proves what it may do",
    "installation_lease.py": "the installation's own Lease, which shows that one of its processes runs",
    "bucket_store.py": "the buckets: each write is compared with what was read",
}
"""What goes by no leave of ``rules.acts``: module, and why."""

WRITES: Final = {"POST", "PUT", "PATCH", "DELETE"}
WORK_API: Final = {("work_api", "heartbeat"), ("work_api", "stop"), ("queue", "ack"), ("queue", "poll")}
ASKING: Final = ("may", "_may", "decide_poll")
"""How what asks begins; ``decide_poll`` goes by ``PoolState.is_ours``."""

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


class Before(IntEnum):
    """What a function did last before a place; on several ways to it, the greatest counts."""

    ASKED = 1
    NOTHING = 2
    """It has only begun: its caller may have asked."""
    WAITED = 3


def called(node: ast.expr) -> tuple[str, str]:
    """Return what a call is made of, and its name: ``self._clients.pods.make(...)`` is ``("pods", "make")``."""
    match node:
        case ast.Attribute(value=ast.Attribute(attr=of), attr=name) | ast.Attribute(value=ast.Name(id=of), attr=name):
            return of.lstrip("_"), name
        case ast.Name(id=name):
            return "", name
        case _:
            return "", ""


def is_write(call: ast.Call, known: set[tuple[str, str]]) -> bool:
    """Whether a call sends a write: one that is known to, or one of the API server that is more than a read."""
    name = called(call.func)
    if "dryRun" in ast.dump(call):
        return False
    if name[1] == "call" and call.args and isinstance(call.args[0], ast.Constant):
        return call.args[0].value in WRITES
    return name in known


class Reading:
    """Reads one function, statement by statement, along all ways through it."""

    def __init__(self, known: set[tuple[str, str]]) -> None:
        self.known = known
        self.is_first = False
        """Whether it writes first of all, so that its caller has to ask."""
        self.lines: set[int] = set()
        """Those of writes that nobody has asked for."""

    def read(self, statements: list[ast.stmt], before: Before) -> Before | None:
        """Return what was done last at the end of the statements; None: their end is not reached."""
        for statement in statements:
            after = self._read_one(statement, before)
            if after is None:
                return None
            before = after
        return before

    def _read_one(self, statement: ast.stmt, before: Before) -> Before | None:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                return before
            case ast.Return() | ast.Raise() | ast.Continue() | ast.Break():
                self._look(statement, before)
                return None
            case ast.If(test, body, orelse):
                before = self._look(test, before)
                return worst(self.read(body, before), self.read(orelse, before))
            case ast.While(body=body) | ast.For(body=body) | ast.AsyncFor(body=body):
                head = statement.test if isinstance(statement, ast.While) else statement.iter
                for _ in range(2):  # what the end of the body did comes before its beginning
                    before = Before.WAITED if isinstance(statement, ast.AsyncFor) else self._look(head, before)
                    before = worst(before, self.read(body, before)) or before
                return before
            case ast.With(items, body) | ast.AsyncWith(items, body):
                for item in items:
                    before = self._look(item.context_expr, before)
                return self.read(body, Before.WAITED if isinstance(statement, ast.AsyncWith) else before)
            case ast.Match(subject, cases):
                before = self._look(subject, before)
                return worst(*(self.read(case.body, before) for case in cases))
            case ast.Try(body, handlers, _, finalbody):
                ends = [self.read(body, before), *(self.read(each.body, Before.WAITED) for each in handlers)]
                end = worst(*ends)
                return self.read(finalbody, end or Before.WAITED) and end
            case _:
                return self._look(statement, before)

    def _look(self, node: ast.AST, before: Before) -> Before:
        """Look at what is called within one statement, in its order."""
        calls = [each for each in ast.walk(node) if isinstance(each, ast.Call | ast.Await)]
        for each in sorted(calls, key=lambda each: (each.lineno, each.col_offset, isinstance(each, ast.Call))):
            is_awaited = isinstance(each, ast.Await) and isinstance(each.value, ast.Call)
            call = each.value if isinstance(each, ast.Await) else each
            if isinstance(call, ast.Call) and called(call.func)[1].startswith(ASKING):
                before = Before.ASKED
            elif is_awaited and isinstance(call, ast.Call) and is_write(call, self.known):
                self.is_first |= before is Before.NOTHING
                if before is Before.WAITED:
                    self.lines.add(each.lineno)
                before = Before.WAITED
            elif isinstance(each, ast.Await):
                before = Before.WAITED
        return before


def worst(*ways: Before | None) -> Before | None:
    """Return the worst of what was done last on several ways to one place; None: none leads there."""
    return max((way for way in ways if way is not None), default=None)


def functions() -> Iterator[tuple[Path, Function, bool]]:
    """Yield each function, and whether it is defined in another one: then it is called wherever that one passes it."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).glob("*.py")):
            if path.name not in OF_THE_PROCESS:
                found = [each for each in ast.walk(parse(path.read_text("utf-8"))) if isinstance(each, Function)]
                inner = {each for outer in found for each in ast.walk(outer) if each is not outer}
                yield from ((path, each, each in inner) for each in found)


def names_of(path: Path, name: str, *, is_inside: bool) -> set[tuple[str, str]]:
    """Return how a function is called: of ``pool_writes`` by ``writes`` too, and in its own module by ``self``."""
    others = {(path.stem, name), (path.stem.rpartition("_")[2], name)}
    return others | {("self", name), ("", name)} if is_inside else others


def test_each_write_is_asked_for_and_nothing_is_waited_for_in_between() -> None:
    asked_by_callers: set[tuple[Path, str]] = set()
    while True:
        problems, found = [], set()
        for path, function, is_inner in functions():
            known = {
                way for module, name in asked_by_callers for way in names_of(module, name, is_inside=module == path)
            }
            reading = Reading(WORK_API | known)
            reading.read(function.body, Before.NOTHING)
            problems += [f"{path.relative_to(ROOT)}:{line} {function.name}" for line in sorted(reading.lines)]
            if reading.is_first and is_inner:
                problems.append(f"{path.relative_to(ROOT)}:{function.lineno} {function.name}")
            elif reading.is_first:
                found.add((path, function.name))
        if found == asked_by_callers:
            break
        asked_by_callers = found
    assert problems == []
    begun = [name for path, name in asked_by_callers if path.parent.name != "cluster" and not name.startswith("_")]
    assert begun == [], "nobody asks for these"
