"""The context of the image's build: only what the Dockerfile copies, and wheels that fit the base."""

import re
from pathlib import Path

import pytest

from image.base import Facts
from image.wheels import FOLDER, LOCKS, tags

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def copied() -> set[str]:
    lines = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
    return {source for line in lines for source in line.split()[:-1]}


def test_the_context_is_what_is_copied_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == copied()


def test_everything_that_is_copied_is_there() -> None:
    assert [source for source in copied() if not (ROOT / source).exists()] == []


def test_every_package_is_installed_from_a_lock_by_its_hash() -> None:
    commands = DOCKERFILE.replace("\\\n", " ")
    installs = [part for part in re.split(r"&&|\n", commands) if "pip" in part and " install " in part]
    assert len(installs) == 3
    assert [part for part in installs if "--require-hashes" not in part and "--no-index /wheel/" not in part] == []
    assert {f"requirements/{lock.name}" for lock in LOCKS} == set(re.findall(r"-r (\S+)", commands))


def test_the_base_is_named_by_its_digest() -> None:
    (base,) = re.findall(r"^ARG PYTHON_IMAGE=(.+)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}", base)


def test_no_address_is_in_it() -> None:
    assert re.findall(r"https?://", DOCKERFILE) == []


def test_fetched_wheels_are_within_what_is_copied_and_no_part_of_the_repository() -> None:
    assert FOLDER.parent == ROOT / "requirements"
    assert "requirements/wheels/" in (ROOT / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize(("glibc", "fits"), [("2.41", True), ("2.17", False)])
def test_a_wheel_is_asked_for_that_the_bases_glibc_can_load(glibc: str, fits: bool) -> None:  # noqa: FBT001
    given = tags(Facts(python="3.13", machine="aarch64", glibc=glibc))
    assert "--python-version=3.13" in given
    assert "--platform=manylinux_2_17_aarch64" in given
    assert ("--platform=manylinux_2_28_aarch64" in given) is fits
