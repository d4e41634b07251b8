"""The kept state of a resource has one writer for each of its groups, and only a turn changes the lease."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.named_code import parse

KEEPER = Path(__file__).parents[3] / "operator" / "worklease" / "keeper"

WRITERS = {
    "lease": {"kept", "turns", "resume"},
    "claim_time": {"kept", "resume"},
    "situation": {"kept", "turns"},
    "rival": {"turns"},
    "resource": {"keeper", "resume"},
    "is_vanished": {"keeper"},
    "predecessor": {"turns"},
    "calls": {
        "turns",
        "keeper",
        "session_calls",
        "work_calls",
        "ack_calls",
        "pod_calls",
        "resource_calls",
        "calls",
        "keys",
        "resume",
    },
    "pods": {"turns", "pod_calls", "resume"},
    "published": {"publisher", "resume"},
    "tenancy": {"kept", "keeper", "turns", "work_calls"},
    "schedule": {"turns"},
}
"""The modules that may write each group of a kept resource; ``resume`` makes one before any turn."""


def writes(source: str) -> Iterator[str]:
    """Return the groups that a module assigns to, as ``kept.GROUP = ...`` or ``kept.GROUP.x = ...``."""
    targets: list[ast.expr] = []
    for node in ast.walk(parse(source)):
        match node:
            case ast.Assign():
                targets += node.targets
            case ast.AugAssign() | ast.AnnAssign():
                targets.append(node.target)
            case _:
                pass
    for each in (part for target in targets for part in (target.elts if isinstance(target, ast.Tuple) else [target])):
        names = ast.unparse(each).split(".")
        if names[0] in {"kept", "self"} and len(names) > 1 and names[1] in WRITERS:
            yield names[1]


@pytest.mark.parametrize("module", sorted(KEEPER.glob("*.py")), ids=lambda path: path.stem)
def test_each_group_of_what_is_kept_is_written_by_its_writers_alone(module: Path) -> None:
    written = set(writes(module.read_text("utf-8")))
    assert {group for group in written if module.stem not in WRITERS[group]} == set()


def test_every_group_is_written_by_somebody() -> None:
    assert {group for module in KEEPER.glob("*.py") for group in writes(module.read_text("utf-8"))} >= {
        "lease",
        "situation",
    }


def test_a_write_by_another_module_would_be_found() -> None:
    assert list(writes("kept.lease = observe(kept.lease)")) == ["lease"]
    assert list(writes("kept.published.state, kept.rival = None, None")) == ["published", "rival"]
    assert list(writes("kept.pods.ignored |= {uid}")) == ["pods"]
    assert list(writes("lease = kept.lease")) == []
