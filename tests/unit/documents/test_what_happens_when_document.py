"""Each row of docs/what-happens-when.md has the test of its name, and each test of those files has its row."""

import ast
import re
from collections.abc import Iterable
from pathlib import Path

from support.named_code import parse

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "what-happens-when.md"
FILES = sorted((ROOT / "tests" / "journey").glob("test_what_happens_when_*.py"))

SAMPLE = """
## A section

| When | The operator | Status |
|---|---|---|
| The pod is evicted | stops the item | `Evicted` |
| The key isn't good | waits | |

## Another

| When | The operator |
|---|---|
| A row | does something |
"""


def rows(text: str) -> list[str]:
    """Return the first cell of each row of each table, without the headers."""
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return [line.split("|")[1].strip() for table in tables for line in table.splitlines()[2:]]


def claim(row: str) -> str:
    """Return the name of a row's test."""
    return "test_" + re.sub(r"[^a-z0-9]", "_", row.lower())


def claims(sources: Iterable[str]) -> list[str]:
    """Return the names of the tests in these sources."""
    return [
        statement.name
        for source in sources
        for statement in parse(source).body
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef) and statement.name.startswith("test_")
    ]


def test_each_row_has_a_test_of_its_name_and_each_test_its_row() -> None:
    told = [claim(row) for row in rows(DOCUMENT.read_text("utf-8"))]
    tested = claims(path.read_text("utf-8") for path in FILES)
    assert sorted(tested) == sorted(told)
    assert len(set(told)) == len(told)


def test_each_file_says_whose_rows_it_has() -> None:
    sections = re.split(r"^## ", DOCUMENT.read_text("utf-8"), flags=re.MULTILINE)[1:]
    told = {section.partition("\n")[0]: [claim(row) for row in rows(section)] for section in sections}
    expected = {heading: names for heading, names in told.items() if names}  # the others are prose
    found = {}
    for path in FILES:
        source = path.read_text("utf-8")
        (heading,) = re.findall(r'"([^"]+)"', ast.get_docstring(parse(source)) or "")
        found[heading] = claims([source])
    assert {heading: sorted(names) for heading, names in found.items()} == {
        heading: sorted(names) for heading, names in expected.items()
    }


def test_a_row_without_a_test_would_be_found_and_a_test_without_a_row() -> None:
    assert [claim(row) for row in rows(SAMPLE)] == ["test_the_pod_is_evicted", "test_the_key_isn_t_good", "test_a_row"]
    assert claims(["def test_a_row() -> None: ...\ndef other() -> None: ...", "async def test_b() -> None: ..."]) == [
        "test_a_row",
        "test_b",
    ]
