"""The layout of `operator/`: few folders with plain names, and modules, functions and classes that stay small.

Each rule is a function that returns what breaks it. A second test applies it to a sample that breaks it.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from support.named_code import parse

ROOT: Final = Path(__file__).parents[2]
OPERATOR: Final = ROOT / "operator"
PACKAGES: Final = sorted(path for path in OPERATOR.iterdir() if path.is_dir() and path.name != "__pycache__")
PACKAGE: Final = OPERATOR / "worklease"

MOST_ENTRIES: Final = 22
"""Entries of `operator/worklease`: about as many as a reader takes in from one `ls`."""

MOST_LINES: Final = 500
"""Lines of a module, as CONTRIBUTING.md says."""

MOST_FUNCTION_LINES: Final = 50
"""Lines of a function without its decorators, as CONTRIBUTING.md says: it fits on a screen."""

MOST_FIELDS: Final = 30
"""Annotated fields of a class. The largest values, a lease and a profile of the simulator, have nearly as many."""

OTHER_TESTS: Final = {"documents", "tools"}
"""The folders of `tests/unit` that test something outside `operator/worklease`."""


# --- The rules -----------------------------------------------------------------------------------------------------


def entries(folder: Path) -> list[str]:
    """Return what `ls` shows of a folder, without caches."""
    return sorted(path.name for path in folder.iterdir() if path.name != "__pycache__" and path.name[0] != ".")


def modules(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each module below a folder."""
    for path in sorted(folder.rglob("*.py")):
        yield path.relative_to(folder.parent).as_posix(), path.read_text()


def nodes(folder: Path) -> Iterator[tuple[str, ast.AST]]:
    """Yield every node of every module below a folder, with the module's name."""
    for name, text in modules(folder):
        for node in ast.walk(parse(text)):
            yield name, node


def python_folders(folder: Path) -> set[str]:
    """Return the folders below a folder that contain Python, as paths from it."""
    return {path.parent.relative_to(folder).as_posix() for path in folder.rglob("*.py")} - {"."}


def crowded(folder: Path) -> list[str]:
    """Return the entries of a folder if there are too many."""
    found = entries(folder)
    return found if len(found) > MOST_ENTRIES else []


def long_modules(folder: Path) -> list[str]:
    """Return the modules with too many lines."""
    lengths = ((name, len(text.splitlines())) for name, text in modules(folder))
    return [f"{name}: {length} lines" for name, length in lengths if length > MOST_LINES]


def long_functions(folder: Path) -> list[str]:
    """Return the functions with too many lines, from `def` to their end."""
    return [
        f"{name}: {node.name} has {length} lines"
        for name, node in nodes(folder)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > MOST_FUNCTION_LINES
    ]


def large_classes(folder: Path) -> list[str]:
    """Return the classes with too many annotated names in their body."""
    return [
        f"{name}: {node.name} has {fields} fields"
        for name, node in nodes(folder)
        if isinstance(node, ast.ClassDef)
        and (fields := sum(isinstance(each, ast.AnnAssign) for each in node.body)) > MOST_FIELDS
    ]


def repeated_classes(folder: Path) -> list[str]:
    """Return the class names that occur more than once, nested and private ones included."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, node in nodes(folder):
        if isinstance(node, ast.ClassDef):
            found[node.name].append(name)
    return [f"{name} in {', '.join(places)}" for name, places in sorted(found.items()) if len(places) > 1]


def undocumented_folders(folder: Path) -> list[str]:
    """Return the folders with Python that are no package with a docstring."""
    initial = {name: folder / name / "__init__.py" for name in {".", *python_folders(folder)}}
    return sorted(
        name
        for name, path in initial.items()
        if not path.is_file() or ast.get_docstring(parse(path.read_text())) is None
    )


def unmatched_tests(folder: Path, tests: Path, others: set[str]) -> list[str]:
    """Return the folders of a package without a folder of tests, and the folders of tests without a package."""
    packages, tested = python_folders(folder), python_folders(tests) - others
    return [f"{name} has no tests" for name in sorted(packages - tested)] + [
        f"{name} tests no package" for name in sorted(tested - packages)
    ]


# --- The code keeps them -------------------------------------------------------------------------------------------


def test_nothing_importable_lies_directly_in_the_source_root() -> None:
    # A package or module named like it would shadow the standard library's ``operator``.
    assert [path.name for path in OPERATOR.iterdir() if not path.is_dir()] == []


def test_a_reader_takes_in_the_package_from_one_listing() -> None:
    assert crowded(PACKAGE) == []


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_every_module_is_short(package: Path) -> None:
    assert long_modules(package) == []


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_every_function_is_short(package: Path) -> None:
    assert long_functions(package) == []


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_every_class_has_few_fields(package: Path) -> None:
    assert large_classes(package) == []


def test_no_two_classes_have_one_name() -> None:
    assert repeated_classes(OPERATOR) == []


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_every_folder_is_a_package_that_says_what_it_holds(package: Path) -> None:
    assert undocumented_folders(package) == []


def test_every_folder_of_the_package_has_its_folder_of_tests() -> None:
    assert unmatched_tests(PACKAGE, Path(__file__).parent, OTHER_TESTS) == []


# --- Each rule finds what breaks it --------------------------------------------------------------------------------


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def function(lines: int, *, name: str = "f", indent: str = "") -> str:
    return f"{indent}def {name}():\n" + f"{indent}    pass\n" * (lines - 1)


def test_a_folder_with_too_many_entries_is_found(tmp_path: Path) -> None:
    full = write(tmp_path, {f"m{number:02}.py": "" for number in range(MOST_ENTRIES)} | {"__pycache__/m.pyc": ""})
    assert crowded(full) == []
    assert crowded(write(full, {"one_more/__init__.py": ""})) == [
        *(f"m{number:02}.py" for number in range(22)),
        "one_more",
    ]


def test_a_long_module_is_found(tmp_path: Path) -> None:
    package = write(tmp_path / "p", {"full.py": "\n" * MOST_LINES, "a/long.py": "\n" * (MOST_LINES + 1)})
    assert long_modules(package) == ["p/a/long.py: 501 lines"]


def test_a_long_function_is_found_wherever_it_is(tmp_path: Path) -> None:
    over = MOST_FUNCTION_LINES + 1
    texts = {
        "fits.py": "@decorator\n" * 5 + function(MOST_FUNCTION_LINES),
        "long.py": function(over),
        "method.py": "class C:\n" + function(over, name="method", indent="    "),
        "waits.py": "async " + function(over, name="waits"),
    }
    assert long_functions(write(tmp_path / "p", texts)) == [
        "p/long.py: f has 51 lines",
        "p/method.py: method has 51 lines",
        "p/waits.py: waits has 51 lines",
    ]


def test_a_class_with_too_many_fields_is_found(tmp_path: Path) -> None:
    fields = "".join(f"    f{number}: int\n" for number in range(MOST_FIELDS))
    texts = {
        "fits.py": f"class Fits:\n{fields}    other = 1\n",
        "large.py": f"class Large:\n{fields}    more: int = 0\n",
    }
    assert large_classes(write(tmp_path / "p", texts)) == ["p/large.py: Large has 31 fields"]


def test_two_classes_of_one_name_are_found_in_two_packages_and_in_one_module(tmp_path: Path) -> None:
    texts = {
        "p/a.py": "class Once: ...\nclass _Twice: ...\n",
        "q/b.py": "def f():\n    class _Twice: ...\n",
        "q/c.py": "class Outer:\n    class Inner: ...\nclass Inner: ...\n",
    }
    source = write(tmp_path / "operator", texts)
    assert repeated_classes(source) == [
        "Inner in operator/q/c.py, operator/q/c.py",
        "_Twice in operator/p/a.py, operator/q/b.py",
    ]


def test_a_folder_without_a_docstring_or_that_is_no_package_is_found(tmp_path: Path) -> None:
    texts = {
        "__init__.py": '"""What is here."""',
        "good/__init__.py": '"""What is here."""',
        "silent/__init__.py": "# What is here.\n",
        "no_package/module.py": '"""What is here."""',
        "data/file.txt": "",
    }
    package = write(tmp_path / "p", texts)
    assert undocumented_folders(package) == ["no_package", "silent"]
    (package / "__init__.py").unlink()
    assert undocumented_folders(package) == [".", "no_package", "silent"]


def test_a_package_without_tests_and_tests_without_a_package_are_found(tmp_path: Path) -> None:
    package = write(tmp_path / "p", {"__init__.py": "", "a/__init__.py": "", "b/__init__.py": ""})
    tests = write(tmp_path / "t", {"a/test_a.py": "", "gone/test_c.py": "", "tools/test_d.py": "", "test_p.py": ""})
    assert unmatched_tests(package, tests, {"tools"}) == ["b has no tests", "gone tests no package"]
