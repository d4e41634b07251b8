"""What is written about the project is true of it, as far as names go.

From each rule in the design document the reader gets to the function and to its test by name, and back. The code is
read, never imported.
"""

import ast
import re
from collections.abc import Iterator
from datetime import date
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "operator" / "worklease"
DESIGN = ROOT / "docs" / "design.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))

STATUS = re.compile(r"(accepted|amended|(?:amended|superseded) by \[\d+\]\(\d{4}-[\w-]+\.md\)), (\S+)")
"""What a decision can be, and since which day; a later page that changes it is linked."""

THE_LEASE = ("lease", "deadlines", "conflicts", "answers", "beats")
"""The modules of the rules about a lease."""

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


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


def is_in_the_house(name: str) -> bool:
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


def rules() -> list[str]:
    """Give the functions of the lease that are rules: the public ones, and those that a docstring makes one."""
    return [
        f"{module}.{statement.name}"
        for module in THE_LEASE
        for statement in parsed(PACKAGE / "rules" / f"{module}.py").body
        if isinstance(statement, ast.FunctionDef)
        and (not statement.name.startswith("_") or ast.get_docstring(statement) is not None)
    ]


def statements(text: str) -> list[str]:
    """Cut a document into its paragraphs, its list's entries and its table's rows."""
    return [part.strip() for part in re.split(r"\n\s*\n|\n(?=\s*(?:-|\d+\.) |\|)", text)]


def told_names() -> list[str]:
    return sorted({span for span in spans(DESIGN.read_text("utf-8")) if re.fullmatch(r"[a-z_]+(\.\w+)+", span)})


def told_tests() -> list[str]:
    return sorted({span for span in spans(DESIGN.read_text("utf-8")) if span.startswith("test_")})


def rows(path: Path, heading: str) -> list[list[str]]:
    """Give the cells of the table below a heading, without its head."""
    section = re.split(r"\n#+ ", path.read_text("utf-8").partition(f"\n{heading}\n")[2])[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


# --- The design document -----------------------------------------------------------------------------------------


def test_every_function_that_is_named_exists() -> None:
    assert [name for name in told_names() if not is_in_the_house(name)] == []


def test_every_test_that_is_named_exists() -> None:
    assert [name for name in told_tests() if name not in claims()] == []


def test_every_rule_of_the_lease_is_told() -> None:
    assert [rule for rule in rules() if rule not in told_names()] == []


def test_every_rule_of_the_lease_is_told_beside_its_test() -> None:
    stated = statements(DESIGN.read_text("utf-8"))
    of_the_lease = [statement for statement in stated if re.search(rf"`({'|'.join(THE_LEASE)})\.\w+`", statement)]
    assert [statement for statement in of_the_lease if "`test_" not in statement] == []


def test_a_name_that_is_nowhere_would_be_found() -> None:
    assert is_in_the_house("conflicts._is_ours")
    assert is_in_the_house("lease.Lease.held")
    assert is_in_the_house("conditions.LASTING")
    assert not is_in_the_house("conflicts._is_theirs")
    assert not is_in_the_house("lease.Lease.stolen")
    assert not is_in_the_house("conflict._is_ours")
    assert "test_a_name_that_is_nowhere_would_be_found" in claims()


# --- The pages for users and for contributors --------------------------------------------------------------------


def test_every_module_is_a_room_that_contributing_names() -> None:
    paths = (path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path.stem != "__init__")
    modules = {"cli/" if path.parts[0] == "cli" else str(path.with_suffix("")) for path in paths}
    named = [room for cells in rows(ROOT / "CONTRIBUTING.md", "### The rooms") for room in spans(cells[0])]
    assert sorted(named) == sorted(modules)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    text = re.sub(r"`[^`\n]+`", "", page.read_text("utf-8"))
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if not _leads_somewhere(page, link)] == []


def _leads_somewhere(page: Path, link: str) -> bool:
    place, _, anchor = link.partition("#")
    target = (page.parent / place) if place else page
    if not anchor or target.suffix != ".md":
        return target.exists()
    headings = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.MULTILINE)
    return anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_decisions_are_numbered_without_a_gap_and_titled_alike() -> None:
    for number, page in enumerate(DECISIONS, start=1):
        assert page.name.startswith(f"{number:04}-")
        assert page.read_text("utf-8").startswith(f"# {number}. ")


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_each_decision_has_a_status_and_the_day_of_each_change(page: Path) -> None:
    _, above, line, below, *_ = page.read_text("utf-8").splitlines()
    label, _, told = line.partition(": ")
    assert (above, label, below) == ("", "Status", "")
    parts = told.split("; ")
    changes = [found.groups() for part in parts if (found := STATUS.fullmatch(part)) is not None]
    assert len(changes) == len(parts), line
    assert changes[0][0] == "accepted"
    days = [day for _, day in changes]
    assert days == sorted(date.fromisoformat(day).isoformat() for day in days)
