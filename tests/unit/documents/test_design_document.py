"""The names that the documents use exist in the project.

Each rule in the design document names its function and its test, and the document names each rule of the code. The
code is read, never imported.
"""

import ast
import re
from datetime import date
from pathlib import Path

import pytest

from support.named_code import PACKAGE, ROOT, claims, is_defined, parsed, spans

DESIGN = ROOT / "docs" / "design.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))

STATUS = re.compile(r"(accepted|amended|(?:amended|superseded) by \[\d+\]\(\d{4}-[\w-]+\.md\)), (\S+)")
"""What a decision can be, and since which day; a later page that changes it is linked."""

THE_LEASE = ("lease", "deadlines", "conflicts", "answers", "beats")
"""The modules of the rules about a lease."""


def rules() -> list[str]:
    """Return the functions of the lease that are rules: the public ones, and the private ones with a docstring."""
    return [
        f"{module}.{statement.name}"
        for module in THE_LEASE
        for statement in parsed(PACKAGE / "rules" / f"{module}.py").body
        if isinstance(statement, ast.FunctionDef)
        and (not statement.name.startswith("_") or ast.get_docstring(statement) is not None)
    ]


def statements(text: str) -> list[str]:
    """Return the paragraphs of a document, the entries of its lists and the rows of its tables."""
    return [part.strip() for part in re.split(r"\n\s*\n|\n(?=\s*(?:-|\d+\.) |\|)", text)]


def told_names() -> list[str]:
    return sorted({span for span in spans(DESIGN.read_text("utf-8")) if re.fullmatch(r"[a-z_]+(\.\w+)+", span)})


def told_tests() -> list[str]:
    return sorted({span for span in spans(DESIGN.read_text("utf-8")) if span.startswith("test_")})


# --- The design document -----------------------------------------------------------------------------------------


def test_every_function_that_is_named_exists() -> None:
    assert [name for name in told_names() if not is_defined(name)] == []


def test_every_test_that_is_named_exists() -> None:
    assert [name for name in told_tests() if name not in claims()] == []


def test_every_rule_of_the_lease_is_told() -> None:
    assert [rule for rule in rules() if rule not in told_names()] == []


def test_every_rule_of_the_lease_is_told_beside_its_test() -> None:
    stated = statements(DESIGN.read_text("utf-8"))
    of_the_lease = [statement for statement in stated if re.search(rf"`({'|'.join(THE_LEASE)})\.\w+`", statement)]
    assert [statement for statement in of_the_lease if "`test_" not in statement] == []


def test_a_name_that_is_nowhere_would_be_found() -> None:
    assert is_defined("conflicts._is_ours")
    assert is_defined("lease.Lease.held")
    assert is_defined("conditions.LASTING")
    assert not is_defined("conflicts._is_theirs")
    assert not is_defined("lease.Lease.stolen")
    assert not is_defined("conflict._is_ours")
    assert "test_a_name_that_is_nowhere_would_be_found" in claims()


# --- The pages for users and for contributors --------------------------------------------------------------------


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
