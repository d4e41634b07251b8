"""The progress display of a long build: a moving line on a terminal, plain lines elsewhere.

Must not decide anything: the caller says what happens.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

QUIET_SECONDS = 60.0  # a log without a new line for longer looks stuck, and CI systems end such jobs


class Step(Protocol):
    """One step of the work."""

    def line(self, text: str) -> None:
        """Record one line of the step's output."""


class Progress(Protocol):
    """Where a build shows its progress."""

    def note(self, text: str) -> None:
        """Say something once."""

    def step(self, title: str, about: str) -> AbstractContextManager[Step]:
        """Show a step while the block runs; `about` says how long it usually takes."""


class PlainStep:
    """A step as plain lines, at most one a minute."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._lines = 0
        self.started = self._said = time.monotonic()

    def line(self, text: str) -> None:
        """Count the line, and say now and then that the step is still running."""
        self._lines += 1
        now = time.monotonic()
        if now - self._said >= QUIET_SECONDS:
            self._said = now
            say(f"{self._title}: still running after {now - self.started:.0f} s, {self._lines} packages, now {text}")


class PlainProgress:
    """Lines without colour or movement, for logs."""

    def note(self, text: str) -> None:
        """Say something once."""
        say(text)

    @contextmanager
    def step(self, title: str, about: str) -> Iterator[Step]:
        """Say when the step starts and when it is done."""
        say(f"{title}: started (usually {about})")
        step = PlainStep(title)
        yield step
        say(f"{title}: done in {time.monotonic() - step.started:.0f} s")


def say(text: str) -> None:
    """Write one line to standard error; standard output is for results."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def progress() -> Iterator[Progress]:
    """Open the display that suits standard error."""
    if not sys.stderr.isatty():
        yield PlainProgress()
        return
    from controlplane.terminal import terminal_progress  # noqa: PLC0415  # rich takes 0.1 s to import, and a warm cache does not need it

    with terminal_progress() as shown:
        yield shown
