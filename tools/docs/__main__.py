"""`python -m docs`: write the generated parts of the documents.

Owns which files those are. Must not build the site: mkdocs does.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import click

from docs import diagram, layers, metrics, reference, settings
from docs.states import chart

ROOT = Path(__file__).parents[2]
DOCUMENTS = Path("docs")
PICTURES = DOCUMENTS / "pictures"
GENERATED: Final[Mapping[Path, Callable[[], str]]] = {
    DOCUMENTS / "reference.md": lambda: reference.page(_crd("workleases"), "The resource"),
    DOCUMENTS / "reference-pool.md": lambda: reference.page(_crd("workpools"), "The pool"),
    DOCUMENTS / "settings.md": lambda: settings.page((ROOT / "operator/worklease/settings.py").read_text("utf-8")),
    DOCUMENTS / "metrics.md": metrics.page,
    PICTURES / "lease-states.svg": lambda: diagram.draw(chart()),
    PICTURES / "layers.svg": lambda: layers.picture(ROOT),
}
"""What makes the text of each generated file, by its path from the project's root."""


def _crd(plural: str) -> str:
    return (ROOT / "crds" / f"{plural}.yaml").read_text("utf-8")


@click.command()
def main() -> None:
    """Write the generated parts of the documents."""
    for path, make in GENERATED.items():
        text = make()
        if not (ROOT / path).exists() or (ROOT / path).read_text("utf-8") != text:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(text, "utf-8")
            click.echo(f"written: {path}")


if __name__ == "__main__":
    main(prog_name="python -m docs")
