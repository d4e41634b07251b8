"""The page of ``worklease explain``: how the story of a lease or pool looks in a terminal. Pure."""

from datetime import datetime
from typing import Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from worklease.cli.leases import duration
from worklease.cli.story import Moment, Story
from worklease.cli.table import MARKS, WORDS

SHOWN: Final = 30
"""The number of moments that are shown, the latest ones: more of them would be a log."""


def page(story: Story, now: datetime) -> RenderableType:
    """Return the page: the lease or pool, its state now, what happened, and what comes next."""
    judgement = story.judgement
    mark, style = MARKS[judgement.level]
    head = Text.assemble((f"{mark} ", style), (story.name, "bold"), f"  {story.subject}")
    verdict = Text.assemble((f"{WORDS[judgement.level].capitalize()}: {judgement.reason}", style))
    return Group(
        head,
        Text(),
        _part("Now", [verdict, *(Text(sentence) for sentence in story.now)]),
        _part("What happened", [_past(story.past, now)]),
        _part("What comes next", [Text(sentence) for sentence in story.future]),
    )


def _part(title: str, lines: list[RenderableType]) -> RenderableType:
    return Group(Text(title, style="bold cyan"), *(Padding(line, (0, 0, 0, 2), expand=False) for line in lines), Text())


def _past(moments: tuple[Moment, ...], now: datetime) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(no_wrap=True, style="dim", justify="right")
    table.add_column(overflow="fold")
    for moment in moments[-SHOWN:]:
        ago = f"{duration((now - moment.at).total_seconds())} ago"
        table.add_row(
            f"{moment.at:%Y-%m-%d %H:%M:%SZ}", ago, Text(moment.what, style="yellow" if moment.is_warning else "")
        )
    return table
