"""What the reader sees: colours and a moving table on a terminal, plain lines elsewhere.

Owns the look of everything. Must not decide what is said, nor whether it is true.
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

WIDTH = 100  # of prose in a log; narrower terminals wrap by themselves
REDRAWS = 4  # a second: an age must not seem to be stuck


class Screen(Protocol):
    """Where the story is shown."""

    def title(self, text: str, about: str) -> None:
        """Say what this is."""

    def working(self, text: str) -> AbstractContextManager[None]:
        """Show that something is running, which may take seconds; then say that it is done and how long it took."""

    def chapter(self, number: int, title: str, about: str) -> None:
        """Begin a chapter; `about` says what happens and why it matters."""

    def say(self, text: str) -> None:
        """Say that something happened."""

    def command(self, line: str) -> None:
        """Show a line that was run, or that a reader may run, unbroken."""

    def quote(self, text: str) -> None:
        """Show the output of another program, line by line and unchanged."""

    def claim(self, claim: Claim) -> None:
        """Show a claim and whether it holds."""

    def verdict(self, text: str, *, well: bool) -> None:
        """Say how it went."""

    def show(self, snapshot: Snapshot) -> None:
        """Show the tables of a moment, if tables can move here."""

    def table(self, text: Callable[[], str]) -> None:
        """Show a table as kubectl printed it, if tables do not move here."""

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
        """Say that something happened."""
        self._console.print(Padding(Text(text, "dim"), (0, 0, 0, 3)))

    def command(self, line: str) -> None:
        """Show a line unbroken: the terminal wraps it, so that it can be copied."""
        self._console.print(Text.assemble("   ", ("$ ", "dim"), (line, "cyan")), soft_wrap=True)

    def quote(self, text: str) -> None:
        """Show the output of another program; the terminal wraps it."""
        self._console.print(Text(textwrap.indent(text, "   "), "dim"), soft_wrap=True)

    def claim(self, claim: Claim) -> None:
        """Show a claim and whether it holds."""
        mark = ("✔ ", "bold green") if claim.holds else ("✘ ", "bold red")
        self._console.print(Padding(Text.assemble(mark, claim.text), (0, 0, 0, 3)))
        if not claim.holds:
            self._console.print(Padding(Text(f"failed: {claim.objection}", "red"), (0, 0, 0, 5)))

    def verdict(self, text: str, *, well: bool) -> None:
        """Say how it went."""
        self._console.print(Padding(Text(text, "bold green" if well else "bold red"), (1, 0, 0, 0)))

    def show(self, snapshot: Snapshot) -> None:
        """Show this in the tables from the next redraw on."""
        self._snapshot = snapshot

    def table(self, text: Callable[[], str]) -> None:
        """Do nothing: the tables move here."""

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
        """Say that something happened."""
        _print(_wrapped(text))

    def command(self, line: str) -> None:
        """Show a line unbroken."""
        _print(f"   $ {line}")

    def quote(self, text: str) -> None:
        """Show the output of another program, line by line and unchanged."""
        _print(textwrap.indent(text, "   "))

    def claim(self, claim: Claim) -> None:
        """Show a claim and whether it holds."""
        _print(f"   [ok] {claim.text}" if claim.holds else f"   [FAILED] {claim.text}\n            {claim.objection}")

    def verdict(self, text: str, *, well: bool) -> None:  # noqa: ARG002  # plain lines have no colour to show it
        """Say how it went."""
        _print(f"\n{text}")

    def show(self, snapshot: Snapshot) -> None:
        """Do nothing: plain lines do not move."""

    def table(self, text: Callable[[], str]) -> None:
        """Show a table as kubectl printed it."""
        self.quote(text().rstrip())

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Do nothing: plain lines do not move."""
        yield


def screen_for_output() -> Screen:
    """Return the screen that suits standard output."""
    console = Console(highlight=False)
    return TerminalScreen(console) if console.is_terminal and not console.is_dumb_terminal else PlainScreen()


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="   ", subsequent_indent="   ")


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
