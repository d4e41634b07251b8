"""`python -m image`: build the image, save it as a file, and list what is in it.

The composition root. Must not check the image: tests/image does.
"""

import os
import sys
from pathlib import Path

import click

from controlplane.progress import progress
from image import base, wheels
from image.buildah import Buildah, BuildahError
from image.building import ARCHIVE, REFERENCE, Sources, build
from image.listing import listing
from image.needs import MissingError, ensure_programs

TROUBLE = (BuildahError, MissingError, OSError)


@click.command()
@click.option(
    "--python-image",
    envvar="PYTHON_IMAGE",
    help="The image to build on, such as python:3.13-slim.  [default: one that is built here from Debian's packages]",
)
def main(python_image: str | None) -> None:
    """Build the image of the operator, without docker and without an image registry."""
    try:
        with progress() as shown:
            ensure_programs(shown, makes_base=python_image is None)
            buildah = Buildah.from_environment()
            with shown.step("The base: Debian with Python", "25 s the first time") as step:
                image = python_image or base.ensure(buildah, step)
                facts = base.ask(buildah, image)
            with shown.step(f"The locked packages for Python {facts.python}", "5 s the first time") as step:
                wheels.ensure(facts, step)
            with shown.step("The image", "50 s") as step:
                sources = Sources.of_repository()
                build(buildah, image, sources, step)
        with buildah.mounted(REFERENCE) as container:
            click.echo(listing(container, sources, ARCHIVE.stat().st_size))
    except TROUBLE as error:
        click.echo(f"The image was not built: {error}", err=True)
        sys.exit(1)
    click.echo(
        f"\nIt is saved in {Path(os.path.relpath(ARCHIVE))}, as {REFERENCE}: docker load, podman load, kind load."
    )


if __name__ == "__main__":
    main(prog_name="python -m image")
