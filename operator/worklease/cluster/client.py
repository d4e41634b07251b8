"""The way to the Kubernetes API: a call out, a reply value back; nothing is raised for what can happen.

Owns the connection, its credentials and the official client. Must not know what a WorkLease or a pod is. All modules
that call the API server do so through this one; Kopf alone has connections of its own.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from kubernetes.aio import client, config
from pydantic_core import from_json

from worklease.cluster.slots import Slots
from worklease.rules.words import one_line

CALL_TIMEOUT: Final = 10.0
"""Seconds after which a call is given up: a healthy API server takes far less, and every call is tried again."""

WRITE_TIMEOUT: Final = 2.0
"""Seconds after which a write for a lease is given up that only its keeper may do: another process may be the keeper
then, so nothing may be done later. It is the time of a call in ``rules.tenure``, which ends before any take."""

GIVEN_UP: Final[Mapping[str, str]] = {"timeout": f"{WRITE_TIMEOUT:.0f}s"}
"""The parameter by which the API server gives a write up then, too. Where it does, it says so a moment later."""

ANSWER_TIME: Final = 1.0
"""Seconds for which its answer to a creation is waited for beyond that: it says why nothing was made."""

LOW_PRIORITY_CALLS: Final = 16
"""Calls under way at once that have time: all leases of a fleet may make one at the start, and none must time out."""

OWN_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""The file in which a pod finds the name of its namespace."""

METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
"""What to accept where only an object's metadata are needed."""

METADATA_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
"""What to accept of a list where only the objects' metadata are needed."""

_OTHER_UID: Final = re.compile(r"\bUID in (the )?precondition\b")
"""The API server's words for a uid that does not match; a 409 without them is about something else."""

_UNSERVED: Final = "the server could not find the requested resource"
"""The API server's words for a path that it does not serve; to some such paths it answers without words."""


class PatchType(StrEnum):
    """How the API server reads the body of a PATCH."""

    JSON = "application/json-patch+json"
    MERGE = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class Done:
    """The API server did what was asked; ``body`` is its answer."""

    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Refused:
    """The API server answered, and did not do what was asked. ``retry_after`` is in seconds."""

    status: int
    message: str
    retry_after: float | None = None
    reason: str = ""
    """The API server's own word for it, such as ``AlreadyExists``."""

    @property
    def is_absence(self) -> bool:
        """Whether the object does not exist. A 404 may also say that its kind is not served, as without a CRD."""
        return self.status == HTTPStatus.NOT_FOUND and self.message != _UNSERVED

    @property
    def is_by_uid(self) -> bool:
        """Whether the object of that name has another uid than the call was meant for."""
        return self.status == HTTPStatus.CONFLICT and _OTHER_UID.search(self.message) is not None

    @property
    def is_by_name(self) -> bool:
        """Whether an object of that name exists already."""
        return self.status == HTTPStatus.CONFLICT and self.reason == "AlreadyExists"


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """No answer came: it is unknown whether the call was done."""

    message: str


Reply = Done | Refused | NoAnswer


@dataclass(frozen=True, slots=True)
class Gone:
    """The object does not exist any more. An object of that name that exists is another one."""


@dataclass(frozen=True, slots=True)
class NotDone:
    """The call did not do what it should; ``message`` says why."""

    message: str


class NotConfigured(Exception):
    """There is no cluster to talk to: neither a service account nor a kubeconfig."""


class KubernetesApi:
    """One pool of connections to the API server, with a service account's token or a kubeconfig's credentials."""

    def __init__(
        self, connected: client.ApiClient, namespace: str | None, *, call_timeout: float = CALL_TIMEOUT
    ) -> None:
        self._client = connected
        self._call_timeout = call_timeout
        self.namespace = namespace
        """The namespace that the credentials name, if they do."""
        self.low_priority = Slots(LOW_PRIORITY_CALLS, LOW_PRIORITY_CALLS // 2)
        """One must be had around calls that thousands may want to make at once, and that have time."""

    @classmethod
    async def connect(cls) -> Self:
        """Connect with a pod's credentials, or else with those that kubectl would find.

        Raises:
            NotConfigured: There are none, or they cannot be read.
        """
        settings = client.Configuration()
        namespace: str | None
        try:
            try:
                config.load_incluster_config(client_configuration=settings)
                namespace = OWN_NAMESPACE.read_text("utf-8").strip()
            except config.ConfigException:
                await config.load_kube_config(client_configuration=settings)
                _, active = config.list_kube_config_contexts()
                namespace = active["context"].get("namespace")
            return cls(open_client(settings), namespace)
        except Exception as error:
            # A file that others wrote may have any mistake: in its syntax, its certificates, a plug-in that it names.
            raise NotConfigured(
                "no Kubernetes credentials: not in a pod, and no usable kubeconfig "
                f"({_in_words(error)}); set KUBECONFIG"
            ) from error

    @classmethod
    async def connect_as_user(cls, kubeconfig: Path | None, context: str | None) -> Self:
        """Connect with a person's credentials, as kubectl does: the named file, else KUBECONFIG, else ~/.kube/config.

        Raises:
            NotConfigured: There are none, or they cannot be read.
        """
        named = None if kubeconfig is None else str(kubeconfig)
        settings = client.Configuration()
        try:
            await config.load_kube_config(config_file=named, context=context, client_configuration=settings)
            contexts, active = config.list_kube_config_contexts(config_file=named)
            chosen = active if context is None else next(each for each in contexts if each["name"] == context)
            return cls(open_client(settings), chosen["context"].get("namespace"))
        except Exception as error:
            raise NotConfigured(
                f"no usable kubeconfig ({_in_words(error)}); name one by --kubeconfig or KUBECONFIG"
            ) from error

    @property
    def server(self) -> str:
        """The API server's address."""
        host: str = self._client.configuration.host
        return host

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        patch: PatchType | None = None,
        accept: str = "application/json",
        timeout: float | None = None,  # noqa: ASYNC109 (the client's own, which tells it from a cancellation)
    ) -> Reply:
        """Make one call and return its reply; ``path`` is absolute, and its parts need no escaping.

        ``timeout`` is in seconds, for a call that may take longer than others.
        """
        headers = dict(self._client.default_headers) | {"Accept": accept}
        if patch is not None:
            headers["Content-Type"] = patch.value
        url = self._client.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        try:
            await self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        except (config.ConfigException, ValueError, OSError) as error:
            return NoAnswer(
                f"the Kubernetes API was not called, because the credentials cannot be used: {_in_words(error)}"
            )
        try:
            response = await self._client.call_api(
                method,
                url,
                header_params=headers,
                body=body,
                _request_timeout=aiohttp.ClientTimeout(self._call_timeout if timeout is None else timeout),
            )
            raw = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return NoAnswer(f"the Kubernetes API at {self.server} did not answer: {_in_words(error)}")
        return self._read(response.status, response.headers, raw)

    def _read(self, status: int, headers: Mapping[str, str], raw: bytes) -> Reply:
        body = _object(raw)
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            if body is None:
                # Something on the way has answered. Without a body it must not pass for an empty object.
                return NoAnswer(f"what answered at {self.server} is not the Kubernetes API: no JSON object")
            return Done(body)
        if body is None and status == HTTPStatus.NOT_FOUND:
            return Refused(status, _UNSERVED)
        return _refusal(status, headers, body or {})


def open_client(settings: client.Configuration) -> client.ApiClient:
    """Open the official client without aiohttp's ``trust_env``, which it would set by itself.

    With ``trust_env`` aiohttp looks for a password in ~/.netrc, and refuses to send a token beside it. So the proxy is
    found here, unless the kubeconfig names one.
    """
    parts = urlsplit(settings.host)
    if settings.proxy is None and not proxy_bypass(parts.hostname or ""):
        settings.proxy = getproxies().get(parts.scheme)
    settings.client_session_kwargs = {"trust_env": False}
    return client.ApiClient(settings)


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        body = from_json(raw)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _refusal(status: int, headers: Mapping[str, str], body: Mapping[str, Any]) -> Refused:
    after = headers.get("Retry-After", "")
    message = body.get("message") or f"the Kubernetes API answered {status}"
    # The message may quote an admission webhook, or the object that was sent.
    reason = str(body.get("reason") or "")
    return Refused(status, one_line(str(message)), float(after) if after.isdigit() else None, one_line(reason))


def _in_words(error: BaseException) -> str:
    return " ".join(one_line(str(error)).split()) or type(error).__name__
