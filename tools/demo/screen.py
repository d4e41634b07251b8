"""What the reader sees: on a terminal with colours and a table that moves, elsewhere as plain lines.

Owns the look of everything. Must not decide what is said, nor whether it is so.
"""

import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import Protocol

from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.rule import Rule
from rich.text import Text

from demo.claims import Claim
from demo.snapshot import Snapshot
from demo.tables import draw

WIDTH = 100  # of prose in a log; terminals narrower than that wrap by themselves
REDRAWS = 4  # a second: an age must not seem to stick


class Screen(Protocol):
    """Where the story is shown."""

    def title(self, text: str, about: str) -> None:
        """Say what this is."""

    def working(self, text: str) -> AbstractContextManager[None]:
        """Show that something is going on, which may take seconds; say that it is done and how long it took."""

    def chapter(self, number: int, title: str, about: str) -> None:
        """Begin a chapter; `about` says what happens and why it matters."""

    def say(self, text: str) -> None:
        """Tell something that happened."""

    def command(self, line: str) -> None:
        """Show a line that was run, or that a reader may run, in one piece."""

    def quote(self, text: str) -> None:
        """Show what another program has written, line by line as it is."""

    def claim(self, claim: Claim) -> None:
        """Show a claim and whether it is so."""

    def verdict(self, text: str, *, well: bool) -> None:
        """Say how it went."""

    def show(self, snapshot: Snapshot) -> None:
        """Show the tables of a moment, where they can move."""

    def table(self, text: Callable[[], str]) -> None:
        """Show a table as kubectl printed it, where the tables do not move."""

    def watching(self) -> AbstractContextManager[None]:
        """Show the tables while the block runs."""


class TerminalScreen:
    """Prose above, moving tables below."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._snapshot = Snapshot()

    def title(self, text: str, about: str) -> None:
        """Say what this is."""
        self._console.print()
        self._console.print(Rule(Text(text, "bold"), align="left", style="cyan"))
        self._console.print(Padding(Text(about), (0, 0, 1, 2)))

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Show a spinner until it is done."""
        began = time.monotonic()
        with self._console.status(escape(text)):
            yield
        self._console.print(f"  [green]✔[/] {escape(text)} [dim]{time.monotonic() - began:.1f} s[/]", highlight=False)

    def chapter(self, number: int, title: str, about: str) -> None:
        """Begin a chapter."""
        self._console.print(Padding(Text.assemble((f"{number}  ", "bold cyan"), (title, "bold")), (1, 0, 0, 0)))
        self._console.print(Padding(Text(about), (0, 0, 0, 3)))

    def say(self, text: str) -> None:
        """Tell something that happened."""
        self._console.print(Padding(Text(text, "dim"), (0, 0, 0, 3)))

    def command(self, line: str) -> None:
        """Show a line in one piece: the terminal wraps it, so that it can be copied."""
        self._console.print(Text.assemble("   ", ("$ ", "dim"), (line, "cyan")), soft_wrap=True)

    def quote(self, text: str) -> None:
        """Show what another program has written; the terminal wraps it."""
        self._console.print(Text(textwrap.indent(text, "   "), "dim"), soft_wrap=True)

    def claim(self, claim: Claim) -> None:
        """Show a claim and whether it is so."""
        mark = ("✔ ", "bold green") if claim.holds else ("✘ ", "bold red")
        self._console.print(Padding(Text.assemble(mark, claim.text), (0, 0, 0, 3)))
        if not claim.holds:
            self._console.print(Padding(Text(f"not so: {claim.objection}", "red"), (0, 0, 0, 5)))

    def verdict(self, text: str, *, well: bool) -> None:
        """Say how it went."""
        self._console.print(Padding(Text(text, "bold green" if well else "bold red"), (1, 0, 0, 0)))

    def show(self, snapshot: Snapshot) -> None:
        """Have the tables show this from the next redraw on."""
        self._snapshot = snapshot

    def table(self, text: Callable[[], str]) -> None:
        """The tables move here: nothing is to be said."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep the tables below everything else while the block runs."""
        with Live(get_renderable=self._draw, console=self._console, refresh_per_second=REDRAWS):
            yield

    def _draw(self) -> RenderableType:
        return draw(self._snapshot, datetime.now(UTC))


class PlainScreen:
    """Lines, for logs and pipes."""

    def title(self, text: str, about: str) -> None:
        """Say what this is."""
        _print(f"{text}\n{textwrap.fill(about, WIDTH)}\n")

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Say when it is done."""
        began = time.monotonic()
        yield
        _print(f"- {text} ({time.monotonic() - began:.1f} s)")

    def chapter(self, number: int, title: str, about: str) -> None:
        """Begin a chapter."""
        _print(f"\n{number}. {title}\n{_wrapped(about)}")

    def say(self, text: str) -> None:
        """Tell something that happened."""
        _print(_wrapped(text))

    def command(self, line: str) -> None:
        """Show a line in one piece."""
        _print(f"   $ {line}")

    def quote(self, text: str) -> None:
        """Show what another program has written, line by line as it is."""
        _print(textwrap.indent(text, "   "))

    def claim(self, claim: Claim) -> None:
        """Show a claim and whether it is so."""
        _print(f"   [ok] {claim.text}" if claim.holds else f"   [NOT SO] {claim.text}\n            {claim.objection}")

    def verdict(self, text: str, *, well: bool) -> None:  # noqa: ARG002  # lines have no colour to tell it by
        """Say how it went."""
        _print(f"\n{text}")

    def show(self, snapshot: Snapshot) -> None:
        """Lines do not move: nothing is to be shown."""

    def table(self, text: Callable[[], str]) -> None:
        """Show a table as kubectl printed it."""
        self.quote(text().rstrip())

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Lines do not move."""
        yield


def screen_for_output() -> Screen:
    """The screen that suits standard output."""
    console = Console(highlight=False)
    return TerminalScreen(console) if console.is_terminal and not console.is_dumb_terminal else PlainScreen()


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="   ", subsequent_indent="   ")


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
