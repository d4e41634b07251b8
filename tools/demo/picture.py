"""The demo as a picture for the README, drawn from a real run.

Owns which chapters are drawn, and how. Must not say anything that the demo does not say.
"""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from demo.screen import TerminalScreen
from demo.tables import STYLES

COLUMNS: Final = 118
"""Wide enough for the widest line of the story, which is a table's."""

CHAPTERS: Final = frozenset({1, 4, 5})
"""The chapters that show what the operator does for its user; the others prove it."""


class PictureScreen(TerminalScreen):
    """A terminal that is drawn instead of shown."""

    def __init__(self) -> None:
        self._drawn = Console(record=True, file=io.StringIO(), force_terminal=True, width=COLUMNS, highlight=False)
        self._aside = Console(file=io.StringIO(), width=COLUMNS)
        super().__init__(self._aside)

    def chapter(self, number: int, title: str, about: str) -> None:
        """Begin a chapter, which is drawn or not."""
        self._console = self._drawn if number in CHAPTERS else self._aside
        super().chapter(number, title, about)

    def table(self, text: Callable[[], str]) -> None:
        """Draw a table as kubectl printed it, with the colours of the moving tables."""
        command, *lines = text().splitlines()
        self.command(command.removeprefix("$ "))
        for line in lines:
            told = Text(f"   {line}")
            for word, style in STYLES.items():
                told.highlight_regex(rf"(?<=\s){re.escape(word)}(?=\s|$)", style)
            self._console.print(told, soft_wrap=True)

    def verdict(self, text: str, *, well: bool) -> None:
        """Draw how it went, and nothing after it."""
        self._console = self._drawn
        super().verdict(text, well=well)
        self._console = self._aside

    def save(self, path: Path) -> None:
        """Write the picture. It loads no font from another site: any fixed-width font will do."""
        drawn = self._drawn.export_svg(title="make demo", theme=MONOKAI, unique_id="demo")
        drawn = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)
        drawn = drawn.replace("Fira Code, monospace", "'DejaVu Sans Mono', Menlo, Consolas, monospace")
        path.write_text(re.sub(r"[ \t]+$", "", drawn, flags=re.MULTILINE), "utf-8")
