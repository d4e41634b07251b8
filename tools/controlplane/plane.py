"""The client of a running control plane: its address, its files, and requests to it.

Must not start or end anything: only the owner may, which can be another process.
"""

import json
import ssl
import weakref
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx

from controlplane import components
from controlplane.components import ADMIN_USER, Layout
from controlplane.kubectl import bound, output_of
from controlplane.ports import LOOPBACK

REQUEST_SECONDS = 5.0  # loopback answers in milliseconds, or not at all


class RefusedError(Exception):
    """The API server refused a request; the message has its words."""


class ControlPlane:
    """A control plane on this machine, as its administrator uses it."""

    def __init__(self, directory: Path, binaries: Mapping[str, Path], *, port: int, token: str) -> None:
        self.directory = directory
        self.binaries = dict(binaries)
        self.token = token
        """The administrator's bearer token."""
        self._port = port
        self._layout = Layout(directory)

    def directions(self) -> str:
        """Return what another process on this machine needs to use it. Contains the token, like the files beside it."""
        binaries = {name: str(path) for name, path in self.binaries.items()}
        return json.dumps([str(self.directory), binaries, self._port, self.token])

    @staticmethod
    def at(directions: str) -> "ControlPlane":
        """Return the client of a control plane that another process owns, from its directions."""
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
        """Who asked for what, one JSON object per line; the control plane's own components are left out."""
        return self._layout.audit_log

    def kubectl(self, *arguments: str, input: str | None = None, check: bool = True) -> str:  # noqa: A002, D417
        """Run kubectl as administrator.

        Args:
            input: what kubectl reads from its standard input.
            check: raise KubectlError if it fails; otherwise its error output is part of the result.
        """
        return output_of(self._kubectl, arguments, text=input, check=check)

    @cached_property
    def _kubectl(self) -> tuple[str, ...]:
        """The words with which every call begins."""
        return bound(self.binaries["kubectl"], self.kubeconfig, cache=self.directory / "kubectl-cache")

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """Write a kubeconfig with a new token of an existing service account."""
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
        # The key is written after the certificate: once the key exists, the certificate is complete.
        return self._layout.key.exists() and self.get("/readyz") is not None

    def get(self, path: str) -> Any:
        """Return what the API server answers to a GET; None if it does not answer, or not yet."""
        return self.request("GET", path)

    def request(self, method: str, path: str, body: object = None, *, content_type: str = "application/json") -> Any:
        """Send a request to the API server as administrator; return None if it refuses or does not answer."""
        try:
            response = self._send(method, path, body, content_type)
        except httpx.HTTPError:  # not up yet, or no longer: callers ask again
            return None
        return None if response.is_error else _content(response)

    def demand(self, method: str, path: str, body: object = None, *, content_type: str = "application/json") -> Any:
        """Send a request to the API server as administrator; raise RefusedError, with its words, if it refuses."""
        response = self._send(method, path, body, content_type)
        if response.is_error:
            raise RefusedError(f"{method} {path} was answered {response.status_code}: {response.text.strip()}")
        return _content(response)

    def _send(self, method: str, path: str, body: object, content_type: str) -> httpx.Response:
        content = None if body is None else json.dumps(body).encode()
        return self._http.request(method, self.url + path, content=content, headers={"Content-Type": content_type})

    @cached_property
    def _http(self) -> httpx.Client:
        """An HTTP client that trusts this API server only and goes through no proxy.

        It keeps its connections: tests ask every tenth of a second, and a new TLS connection costs more than an answer.
        """
        context = ssl.create_default_context(cafile=str(self._layout.authority))
        headers = {"Authorization": f"Bearer {self.token}"}
        client = httpx.Client(headers=headers, verify=context, timeout=REQUEST_SECONDS, trust_env=False)
        weakref.finalize(self, client.close)
        return client


def _content(response: httpx.Response) -> Any:
    """Return an answer's object, or its text if it has none."""
    return response.json() if response.text.startswith("{") else response.text


def write_private(path: Path, content: str) -> None:
    """Write a file that holds a token."""
    path.touch(mode=0o600)
    path.write_text(content)
