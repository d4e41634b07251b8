"""mkdocs hook: `nav` may name all pages of a folder as `folder/*`, so that a new page needs no line of its own.

Must not change what a page says.
"""

from pathlib import Path
from typing import Any


def on_config(config: Any) -> Any:
    """Write out the folders of ``nav``."""
    config["nav"] = _written_out(config["nav"], Path(config["docs_dir"]))
    return config


def _written_out(entry: Any, folder: Path) -> Any:
    match entry:
        case list():
            return [page for each in entry for page in _pages(each, folder)]
        case dict():
            return {title: _written_out(inner, folder) for title, inner in entry.items()}
        case _:
            return entry


def _pages(entry: Any, folder: Path) -> list[Any]:
    if isinstance(entry, str) and entry.endswith("/*"):
        return sorted(path.relative_to(folder).as_posix() for path in folder.glob(f"{entry[:-1]}*.md"))
    return [_written_out(entry, folder)]
