"""`python -m docs`: write the generated parts of the documents.

Owns which files those are. Must not build the site: mkdocs does.
"""

from collections.abc import Mapping
from pathlib import Path

import click

from docs import diagram, layers, metrics, reference, settings
from docs.states import chart

ROOT = Path(__file__).parents[2]


def generated() -> Mapping[Path, str]:
    """Give the text of each generated file, by its path from the project's root."""
    documents = Path("docs")
    return {
        documents / "reference.md": reference.page((ROOT / "crds" / "workleases.yaml").read_text("utf-8")),
        documents / "settings.md": settings.page((ROOT / "operator/worklease/settings.py").read_text("utf-8")),
        documents / "metrics.md": metrics.page(),
        documents / "pictures" / "lease-states.svg": diagram.draw(chart()),
        documents / "pictures" / "layers.svg": layers.picture(ROOT),
    }


@click.command()
def main() -> None:
    """Write the generated parts of the documents."""
    for path, text in generated().items():
        if not (ROOT / path).exists() or (ROOT / path).read_text("utf-8") != text:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(text, "utf-8")
            click.echo(f"written: {path}")


if __name__ == "__main__":
    main(prog_name="python -m docs")
