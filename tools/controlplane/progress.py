"""Showing how far a long build is: a moving line on a terminal, plain lines elsewhere.

Must not decide anything; whoever works tells it what happens.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

QUIET_SECONDS = 60.0  # a log without a line for longer looks hung, and CI systems end such jobs


class Step(Protocol):
    """One piece of work on its way."""

    def line(self, text: str) -> None:
        """Take note of one line of the work's output."""


class Progress(Protocol):
    """Where a build tells what it is at."""

    def note(self, text: str) -> None:
        """Say something once."""

    def step(self, title: str, about: str) -> AbstractContextManager[Step]:
        """Show a piece of work while the block runs; `about` says how long it usually takes."""


class PlainStep:
    """A step as plain lines, at most one a minute."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._lines = 0
        self.started = self._said = time.monotonic()

    def line(self, text: str) -> None:
        """Count the line, and say now and then that work goes on."""
        self._lines += 1
        now = time.monotonic()
        if now - self._said >= QUIET_SECONDS:
            self._said = now
            say(f"{self._title}: still at work after {now - self.started:.0f} s, {self._lines} packages, at {text}")


class PlainProgress:
    """Lines without colour or movement, for logs."""

    def note(self, text: str) -> None:
        """Say something once."""
        say(text)

    @contextmanager
    def step(self, title: str, about: str) -> Iterator[Step]:
        """Say when the work begins and when it has ended well."""
        say(f"{title}: started (usually {about})")
        step = PlainStep(title)
        yield step
        say(f"{title}: done in {time.monotonic() - step.started:.0f} s")


def say(text: str) -> None:
    """Write one line to standard error, which leaves standard output to results."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def progress() -> Iterator[Progress]:
    """The display that suits standard error."""
    if not sys.stderr.isatty():
        yield PlainProgress()
        return
    from controlplane.terminal import terminal_progress  # noqa: PLC0415  # rich costs 0.1 s that a warm cache can spare

    with terminal_progress() as shown:
        yield shown
