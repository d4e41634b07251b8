"""`python -m observability dashboard` writes the dashboard's file; `... pictures` draws it from a real run."""

import click

from observability.artefacts import DASHBOARD
from observability.dashboard import dashboard as made


@click.group()
def main() -> None:
    """Generate the dashboard, and pictures of it."""


@main.command()
def dashboard() -> None:
    """Write the dashboard's JSON into the chart."""
    DASHBOARD.write_text(made())


@main.command()
def pictures() -> None:
    """Draw the dashboard's main panels from a real run."""
    from observability.pictures import PICTURE, draw  # noqa: PLC0415 (the other command needs no matplotlib)

    draw()
    click.echo(f"drawn: {PICTURE}")


main()
