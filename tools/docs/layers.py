"""The picture of the package's folders and of who may import whom, drawn from the import contract in pyproject.toml.

Owns places and looks alone. What is in the picture comes from the contract, and the words from the folders' own
docstrings.
"""

import ast
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from docs.diagram import ARROW, STYLE, text

WIDTH: Final = 1000
MARGIN: Final = 20
TOP: Final = 64
HEAD: Final = 38
"""Pixels of a box above its words: its name."""
LINE: Final = 14
"""Pixels from one line of words to the next."""
GAP: Final = 14
"""Pixels between two boxes of a layer; between two layers, twice that."""
CHARACTER: Final = 6.3
"""Pixels of a character, about, at the size of the small text."""
SIBLINGS: Final = {"work_api_simulator", "worklease_proxy"}
"""The packages beside the operator's: they import nothing of it."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder, or a module beside the folders, with what it says of itself and what it alone may import."""

    name: str
    words: str
    owns: tuple[str, ...] = ()


def layers(contracts: dict[str, Any], package: Path) -> list[list[Folder]]:
    """Return the layers of the contract, from the top, each with its folders."""
    config = contracts["tool"]["importlinter"]
    (layered,) = (
        each for each in config["contracts"] if each.get("containers") == [package.name] and each["type"] == "layers"
    )
    owners = _owners(config["contracts"], package.name)
    return [[_folder(name.strip(), owners, package) for name in layer.split("|")] for layer in layered["layers"]]


def _owners(contracts: list[dict[str, Any]], package: str) -> dict[str, list[str]]:
    """Return which folder alone may import which dependency, by the contracts that name one owner."""
    owners: dict[str, list[str]] = {}
    for contract in contracts:
        if contract["name"].startswith("Each dependency has one owner"):
            for allowed in contract["ignore_imports"]:
                importer, _, dependency = allowed.partition(" -> ")
                folder = importer.removeprefix(f"{package}.").partition(".")[0]
                if dependency not in owners.setdefault(folder, []):
                    owners[folder].append(dependency)
    return owners


def _folder(name: str, owners: dict[str, list[str]], package: Path) -> Folder:
    file = package / name / "__init__.py"
    source = (file if file.exists() else package / f"{name}.py").read_text("utf-8")
    words = (ast.get_docstring(ast.parse(source)) or "").partition("\n\n")[0]
    label = f"{name}/" if file.exists() else f"{name}.py"
    return Folder(label, " ".join(words.replace("`", "").split()), tuple(owners.get(name, ())))


def draw(rows: list[list[Folder]]) -> str:
    """Draw the layers, the first one at the top; the last row is what stands beside them."""
    parts: list[str] = []
    y = TOP
    for row in rows:
        width = (WIDTH - 2 * MARGIN - GAP * (len(row) - 1)) // len(row)
        told = [_wrapped(folder, width) for folder in row]
        height = HEAD + LINE * max(map(len, told))
        for place, folder in enumerate(row):
            parts += _box(folder.name, told[place], MARGIN + place * (width + GAP), y, width, height)
        if row not in rows[-2:]:
            parts.append(f'<path class="way" d="M{WIDTH // 2} {y + height} V{y + height + GAP * 2 - 2}"/>')
        y += height + 2 * GAP
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" role="img">',
        "<title>The folders of the package, and who may import whom</title>",
        f"<style>{STYLE}</style>",
        ARROW,
        f'<rect width="{WIDTH}" height="{y}" rx="12" fill="#f7f9fa"/>',
        text(MARGIN, 28, "Each layer may import the layers below it: never one above, never a neighbour.", "title"),
        text(
            MARGIN, 48, "In brackets: what nothing else may import. The last boxes are packages of their own.", "event"
        ),
    ]
    return "\n".join([*head, *parts, "</svg>"]) + "\n"


def _wrapped(folder: Folder, width: int) -> list[str]:
    owned = f" ({', '.join(folder.owns)})" if folder.owns else ""
    return textwrap.wrap(folder.words + owned, int((width - 18) / CHARACTER))


def _box(name: str, lines: list[str], x: int, y: int, *size: int) -> Iterator[str]:
    width, height = size
    yield f'<rect class="box" x="{x}" y="{y}" width="{width}" height="{height}" rx="8"/>'
    yield text(x + 10, y + 20, name, "title")
    for line, words in enumerate(lines):
        yield text(x + 10, y + HEAD - 2 + LINE * line, words, "event")


def picture(root: Path) -> str:
    """Draw the picture of the project whose files are in ``root``."""
    contracts = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    source = root / "operator"
    siblings = [_folder(name, {}, source) for name in sorted(SIBLINGS)]
    return draw([*layers(contracts, source / "worklease"), siblings])
