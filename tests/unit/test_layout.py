"""The source root shadows nothing."""

from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_nothing_importable_lies_directly_in_the_source_root() -> None:
    # A package or module named like it would shadow the standard library's ``operator``.
    assert [path.name for path in (ROOT / "operator").iterdir() if not path.is_dir()] == []


def test_every_folder_of_the_source_root_is_a_package() -> None:
    folders = [path for path in (ROOT / "operator").iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert [path.name for path in folders if not (path / "__init__.py").is_file()] == []


def test_every_folder_of_the_package_is_a_package() -> None:
    modules = {path.parent for path in (ROOT / "operator" / "worklease").rglob("*.py")}
    assert [str(path) for path in modules if not (path / "__init__.py").is_file()] == []
