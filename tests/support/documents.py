"""The code blocks of the documents, as a reader copies them.

This module collects them. It must not run any of them, or assert.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
PAGES: Final = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md")))
FENCE: Final = re.compile(r"^( *)```([\w-]*) *([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
INCLUDE: Final = re.compile(r'--8<-- "([^":]+)"')
"""The mark by which a page includes a file (pymdownx.snippets)."""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page."""

    page: Path
    language: str
    title: str
    text: str
    """The text as a reader of the site sees it."""
    included: Path | None = None
    """The file that the block includes."""

    def __str__(self) -> str:
        return f"{name_of(self.page)}: {self.text.splitlines()[0]}"


def name_of(page: Path) -> str:
    """Return a page's path from the project's root."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """Return the blocks of a page, in order."""
    for _, language, rest, text in FENCE.findall(page.read_text("utf-8")):
        title = re.search(r'title="([^"]+)"', rest)
        named = "" if title is None else title[1]
        if (include := INCLUDE.fullmatch(text.strip())) is not None:
            file = ROOT / include[1]
            yield Block(page, language, named, file.read_text("utf-8"), file)
        else:
            yield Block(page, language, named, text)


def commands(block: Block) -> list[str]:
    """Return the commands of a shell block, each on one line, without comments."""
    joined = block.text.replace("\\\n", " ")
    return [re.sub(r"\s+# .*", "", line).strip() for line in joined.splitlines() if line.strip()]
