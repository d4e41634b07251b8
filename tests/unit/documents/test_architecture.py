"""The architecture page names what exists, and all that a newcomer looks for."""

import re

import pytest

from docs import layers
from support.named_code import PACKAGE, ROOT, is_defined, rows, spans

PAGE = ROOT / "docs" / "architecture.md"
TEXT = PAGE.read_text("utf-8")
MOST_LINES = 150

CHANGES = (
    "a reason of a condition",
    "a setting",
    "a call of the Work API",
    "a metric",
    "a column of `kubectl get`",
    "a field of the resource",
    "an `onFailure` policy",
    "a profile of the simulator",
    "a Kubernetes event",
    "an alert",
    "a command",
    "a trace or log line",
)


def is_there(name: str) -> bool:
    """Whether a name in code font is a file or folder of the project, or is defined in the package."""
    places = (ROOT / name, PACKAGE / name)
    return any(place.exists() for place in places) or is_defined(name)


def named() -> list[str]:
    """Return the names in code font that look like a path or like a definition."""
    return sorted(
        {
            span
            for span in spans(TEXT)
            if re.fullmatch(r"[a-z_./-]*/|[\w./-]+/[\w.-]+|\w+\.(py|md|toml|yaml)|[a-z_]+(\.\w+)+", span)
        }
    )


def test_the_page_is_short() -> None:
    assert len(TEXT.splitlines()) <= MOST_LINES


def test_every_name_on_the_page_is_there() -> None:
    assert len(named()) > 60
    assert [name for name in named() if not is_there(name)] == []


def test_a_name_that_is_nowhere_would_be_found() -> None:
    assert is_there("turns.Turns._turn")
    assert is_there("keeper/turns.py")
    assert not is_there("turns.Turns._vanish")
    assert not is_there("keeper/rooms.py")


def test_every_folder_has_its_row_and_every_module_beside_them_is_named() -> None:
    folders = {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    assert {spans(cells[0])[0] for cells in rows(PAGE, "## The folders")} == folders
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert [module for module in sorted(modules) if not re.search(rf"`{module}\.", TEXT)] == []


@pytest.mark.parametrize("change", CHANGES)
def test_the_page_says_where_to_change(change: str) -> None:
    (row,) = [cells for cells in rows(PAGE, "## Where do I change") if cells[0] == change]
    assert spans(row[1]), "where to begin"


def test_the_picture_shows_every_folder_and_module_of_the_contract_and_each_owner() -> None:
    drawn = layers.picture(ROOT)
    for path in PACKAGE.iterdir():
        if path.suffix == ".py" and path.stem != "__init__":
            assert f">{path.name}<" in drawn
        elif (path / "__init__.py").exists():
            assert f">{path.name}/<" in drawn
    for dependency in ("kopf", "kubernetes", "httpx", "pydantic_settings", "prometheus_client"):
        assert dependency in drawn
