"""What a person sees of the commands: the type of a run of one, and what a picture looks like in a terminal."""

from collections.abc import Awaitable, Callable

from click.testing import Result
from rich.console import Console, RenderableType

Run = Callable[..., Awaitable[Result]]
"""Runs a command with these words, as the fixture ``run`` does."""


def shown(what: RenderableType, width: int = 140) -> str:
    """Return what a terminal of that width shows of a picture, without colours."""
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(what)
    return captured.get()
