"""The progress display on a terminal, by rich.

Must be imported only when there is something to show.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress as RichProgress
from rich.progress import SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from controlplane.progress import Progress, Step

WIDEST_LINE = 48  # together with title, times and spinner this fits into 100 columns


class TerminalStep:
    """A step as one moving line."""

    def __init__(self, display: RichProgress, task: TaskID) -> None:
        self._display = display
        self._task = task
        self._lines = 0

    def line(self, text: str) -> None:
        """Show how many packages are done and the current one."""
        self._lines += 1
        shown = text if len(text) <= WIDEST_LINE else f"…{text[1 - WIDEST_LINE :]}"
        self._display.update(self._task, detail=f"[dim]{self._lines:>5}  {escape(shown)}[/]")


class TerminalProgress:
    """Lines that move while the work runs and stay when it is done."""

    def __init__(self, display: RichProgress) -> None:
        self._display = display

    def note(self, text: str) -> None:
        """Say something once, above the moving lines."""
        self._display.console.print(text, highlight=False, markup=False)

    @contextmanager
    def step(self, title: str, about: str) -> Iterator[Step]:
        """Show one moving line while the work runs."""
        task = self._display.add_task(title, total=1, detail=f"[dim]usually {escape(about)}[/]")
        try:
            yield TerminalStep(self._display, task)
        except BaseException:
            self._display.update(task, detail="[red]not finished[/]")
            self._display.stop_task(task)
            raise
        self._display.update(task, completed=1, detail="[green]done[/]")


@contextmanager
def terminal_progress() -> Iterator[Progress]:
    """Open the display on standard error."""
    columns = (
        SpinnerColumn(finished_text="[green]✔[/]"),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as display:
        yield TerminalProgress(display)
