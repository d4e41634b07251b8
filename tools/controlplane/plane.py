"""The way to a control plane that runs: its address, its files, and questions to it.

Must not start or end anything: that is its owner's, who may be another process.
"""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from controlplane import components
from controlplane.components import ADMIN_USER, Layout
from controlplane.kubectl import bound, output_of
from controlplane.ports import LOOPBACK

REQUEST_SECONDS = 5.0  # loopback answers in milliseconds, or not at all


class ControlPlane:
    """A control plane of this machine, as its administrator reaches it."""

    def __init__(self, directory: Path, binaries: Mapping[str, Path], *, port: int, token: str) -> None:
        self.directory = directory
        self.binaries = dict(binaries)
        self.token = token
        """The administrator's bearer token."""
        self._port = port
        self._layout = Layout(directory)

    def directions(self) -> str:
        """Say how another process on this machine finds it; holds the token, as the files beside it do."""
        binaries = {name: str(path) for name, path in self.binaries.items()}
        return json.dumps([str(self.directory), binaries, self._port, self.token])

    @staticmethod
    def at(directions: str) -> "ControlPlane":
        """Find one that another process owns, by its directions."""
        directory, binaries, port, token = json.loads(directions)
        paths = {name: Path(path) for name, path in binaries.items()}
        return ControlPlane(Path(directory), paths, port=port, token=token)

    @property
    def url(self) -> str:
        """The API server's address."""
        return f"https://{LOOPBACK}:{self._port}"

    @property
    def ca(self) -> Path:
        """The certificates that a client trusts."""
        return self._layout.authority

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self._layout.kubeconfig(ADMIN_USER)

    @property
    def audit_log(self) -> Path:
        """Who asked for what, one JSON object a line; the control plane's own parts are left out."""
        return self._layout.audit_log

    def kubectl(self, *arguments: str, input: str | None = None, check: bool = True) -> str:  # noqa: A002, D417
        """Run kubectl as administrator.

        Args:
            input: what kubectl reads from its standard input.
            check: raise KubectlError if it fails; else what it complained about is part of the result.
        """
        return output_of(self._kubectl, arguments, text=input, check=check)

    @cached_property
    def _kubectl(self) -> tuple[str, ...]:
        """The words with which every call begins."""
        return bound(self.binaries["kubectl"], self.kubeconfig, cache=self.directory / "kubectl-cache")

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig with a fresh token of a service account that exists."""
        token = self.kubectl("create", "token", name, f"--namespace={namespace}", "--duration=24h").strip()
        return self.write_kubeconfig(f"system:serviceaccount:{namespace}:{name}", token)

    def write_kubeconfig(self, user: str, token: str) -> Path:
        """Write the kubeconfig of a user."""
        path = self._layout.kubeconfig(user)
        content = components.kubeconfig(url=self.url, authority=self._layout.authority, user=user, token=token)
        write_private(path, json.dumps(content, indent=2))
        return path

    @property
    def is_ready(self) -> bool:
        """Whether the API server says that it is ready."""
        # The key is written after the certificate: once it is there, the certificate is whole.
        return self._layout.key.exists() and self.get("/readyz") is not None

    def get(self, path: str) -> Any:
        """What the API server answers to a GET; None if it does not, or not yet."""
        return self.request(urllib.request.Request(self.url + path))  # noqa: S310  # https only

    def request(self, request: urllib.request.Request) -> Any:
        """Ask the API server as administrator; None if it refuses, or does not answer."""
        request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with self._opener.open(request, timeout=REQUEST_SECONDS) as response:
                body = response.read().decode()
        except (OSError, urllib.error.HTTPError):  # not there yet, or not any more: callers ask again
            return None
        return json.loads(body) if body.startswith("{") else body

    @cached_property
    def _opener(self) -> urllib.request.OpenerDirector:
        """An HTTP client that trusts this API server only and goes through no proxy."""
        context = ssl.create_default_context(cafile=str(self._layout.authority))
        return urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )


def write_private(path: Path, content: str) -> None:
    """Write a file that holds a token."""
    path.touch(mode=0o600)
    path.write_text(content)
