"""The documents name everything that the code has, and the generated pages are current."""

import ast
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

from docs import metrics
from docs.__main__ import GENERATED
from docs.states import State, chart
from support.documents import DOCS, PAGES, ROOT, blocks, name_of
from support.named_code import parse
from worklease.rules.deadlines import fence
from worklease.rules.lease import End, Lease
from worklease.rules.reasons import TABLE, Kind, Reason, Severity, reasons_of

PACKAGE = ROOT / "operator" / "worklease"


def headings(page: Path, level: int) -> list[str]:
    return re.findall(rf"^{'#' * level} (.+)$", page.read_text("utf-8"), re.MULTILINE)


# --- Generated pages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", GENERATED, ids=str)
def test_a_generated_page_is_current_else_make_docs(path: Path) -> None:
    assert (ROOT / path).read_text("utf-8") == GENERATED[path]()


def test_the_picture_of_the_states_has_every_reason_of_the_lease_and_every_end() -> None:
    drawn = chart()
    assert {reason for shown in drawn.shown.values() for _, reason in shown} == set(reasons_of(Kind.LEASE_HELD))
    assert {reason for _, reason in drawn.shown[State.OVER]} == {Reason(end.value) for end in End}
    assert {way for way in drawn.ways if way[0] is State.OVER} == set()


def test_every_metric_that_the_code_names_is_on_the_page() -> None:
    trees = [parse(path.read_text("utf-8")) for path in (PACKAGE / "observability").glob("*metrics.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    strings = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    named = {string for string in strings if re.fullmatch(r"worklease_[a-z_]+", string)}
    listed = {re.sub("_(total|info)$", "", name) for name in metrics.names()}
    assert named == listed
    text = (DOCS / "metrics.md").read_text("utf-8")
    assert [name for name in metrics.names() if f"| `{name}` |" not in text] == []


# --- Written pages -----------------------------------------------------------------------------------------------


def test_every_reason_of_a_condition_has_its_entry_once() -> None:
    assert sorted(headings(DOCS / "troubleshooting.md", 3)) == sorted(reason.value for reason in Reason)


def test_every_entry_says_what_it_means_and_what_to_do() -> None:
    entries = re.split(r"^### ", (DOCS / "troubleshooting.md").read_text("utf-8"), flags=re.MULTILINE)[1:]
    silent = [
        entry.splitlines()[0]
        for entry in entries
        if not re.fullmatch(r"\w+\n\n\S.+?\n\n\*\*To do:\*\* .+", entry, re.DOTALL)
    ]
    assert silent == []


@pytest.mark.parametrize(("ttl", "grace"), [(300.0, 30.0), (30.0, 30.0)])
def test_the_fences_in_the_concepts_are_those_of_the_rule(ttl: float, grace: float) -> None:
    at = fence(Lease(ttl=ttl, sent=0.0, pod_grace=grace))
    text = " ".join((DOCS / "concepts.md").read_text("utf-8").split())
    assert re.search(rf"TTL of {ttl:g} s\b[^.]*? {re.escape(f'{at:g}')} s", text)


def events_in_code() -> set[str]:
    """Return the reasons of the events that the code makes as `KubernetesEvent`, literal or by a name."""
    found: set[str] = set()
    for function in parse((PACKAGE / "observability" / "event_recorder.py").read_text("utf-8")).body:
        if not isinstance(function, ast.FunctionDef):
            continue
        assigned = {
            target.id: node.value
            for node in ast.walk(function)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for call in ast.walk(function):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "KubernetesEvent":
                reason = call.args[1]
                named = assigned.get(reason.id, reason) if isinstance(reason, ast.Name) else reason
                constants = [node.value for node in ast.walk(named) if isinstance(node, ast.Constant)]
                found |= {constant for constant in constants if isinstance(constant, str)}
    return found


def event_rows() -> list[tuple[str, list[str]]]:
    """Return the rows of the page's tables: a type, and the names of the events that have it."""
    page = (DOCS / "events.md").read_text("utf-8")
    rows = re.findall(r"^\| (`[^|]+) \| (Normal|Warning) \|", page, re.MULTILINE)
    return [(type_, re.findall(r"`(\w+)`", names)) for names, type_ in rows]


def test_every_event_has_its_entry() -> None:
    # Events about the lease have the names of its condition's reasons.
    of_lease = {reason.value for reason in reasons_of(Kind.LEASE_HELD) if TABLE[reason].event is not Severity.QUIET}
    made = events_in_code() | of_lease
    assert {"SandboxCreated", "SandboxFailed", "Claimed", "Orphaned"} <= made
    listed = [name for _, names in event_rows() for name in names]
    assert sorted(listed) == sorted(made)


def test_every_event_about_a_lease_has_the_type_that_the_table_of_reasons_gives() -> None:
    types = {name: type_ for type_, names in event_rows() for name in names}
    for reason in reasons_of(Kind.LEASE_HELD):
        event = TABLE[reason].event
        if event is not Severity.QUIET:
            assert types[reason.value] == ("Warning" if event is Severity.WARNING else "Normal"), reason


# --- The site ----------------------------------------------------------------------------------------------------


class Sources(HTMLParser):
    """Collects what a browser fetches by itself to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe"):
            self.found.append(given.get("src") or "")
        if tag == "link" and given.get("rel") not in ("canonical", "edit", "prev", "next"):
            self.found.append(given.get("href") or "")


def test_the_site_builds_without_a_warning_and_fetches_nothing_from_elsewhere(tmp_path: Path) -> None:
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True)
    build(config)
    pages = sorted(tmp_path.rglob("*.html"))
    assert len(pages) > len(PAGES) - 2
    for page in pages:
        sources = Sources()
        sources.feed(page.read_text("utf-8"))
        assert [source for source in sources.found if source.startswith(("http", "//"))] == [], page
    for style in tmp_path.rglob("*.css"):
        assert re.findall(r"url\(['\"]?(?:https?:)?//[^)]+", style.read_text("utf-8")) == [], style


@pytest.mark.parametrize("picture", sorted((DOCS / "pictures").glob("*.svg")), ids=lambda path: path.name)
def test_a_picture_fetches_nothing_from_elsewhere(picture: Path) -> None:
    text = picture.read_text("utf-8")
    assert re.findall(r"(?:href=['\"]|url\(['\"]?|@import ['\"])(?:https?:)?//[^'\")]+", text) == []


# --- The blocks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_each_block_has_a_language_that_is_run_or_a_file_that_is(page: Path) -> None:
    """`tests/journey/test_documents_are_run.py` runs the blocks in `sh` and `yaml`."""
    others = [block for block in blocks(page) if block.language not in ("sh", "yaml")]
    assert [str(block) for block in others if block.included is None] == []
