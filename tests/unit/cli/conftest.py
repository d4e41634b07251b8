"""A scripted API server, and the commands run against it."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from support.commands import Run
from support.scripted_server import ScriptedServer, serving
from worklease.cli.command import kubectl_worklease


@pytest.fixture
async def api() -> AsyncIterator[ScriptedServer]:
    async with serving() as started:
        yield started


@pytest.fixture
def kubeconfig(api: ScriptedServer, tmp_path: Path) -> Path:
    """A kubeconfig of two contexts, both of the scripted API server."""
    path = tmp_path / "kubeconfig"
    names = {"one": "team", "two": "others"}
    written_out = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "one",
        "clusters": [{"name": "c", "cluster": {"server": api.url}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [
            {"name": name, "context": {"cluster": "c", "user": "u", "namespace": namespace}}
            for name, namespace in names.items()
        ],
    }
    path.write_text(json.dumps(written_out))
    return path


@pytest.fixture
def run(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    async def invoke(*arguments: str) -> Result:
        options = [*arguments, "--kubeconfig", str(kubeconfig)]
        # In a thread of its own: a command runs its own loop.
        return await asyncio.to_thread(CliRunner().invoke, kubectl_worklease, options)

    return invoke
