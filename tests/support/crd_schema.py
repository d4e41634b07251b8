"""The schema of a custom resource beside its models: what each accepts, and what the real API server says of it.

This module owns the requests to the server and the notation in which two schemas are compared. It must not assert.
"""

import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import httpx
import yaml
from hypothesis import HealthCheck, settings
from pydantic import BaseModel

from controlplane import ControlPlane
from worklease.api.names import RESOURCE_PATH

REFUSED: Final = {httpx.codes.BAD_REQUEST, httpx.codes.UNPROCESSABLE_ENTITY}


def on_the_server(examples: int) -> settings:
    """Return settings for a test on the real server: no deadline, and one namespace, since a dry run leaves nothing."""
    shared = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=examples, deadline=None, suppress_health_check=shared)


@dataclass(frozen=True, slots=True)
class JudgedResources:
    """The resources of one kind and namespace, as the API server judges them."""

    client: httpx.Client
    path: str
    kind: str

    @classmethod
    @contextmanager
    def of(cls, plane: ControlPlane, namespace: str, kind: str, plural: str) -> Iterator[Self]:
        """Open a client for the resources of a namespace."""
        with httpx.Client(
            base_url=plane.url,
            headers={"authorization": f"Bearer {plane.token}"},
            verify=ssl.create_default_context(cafile=str(plane.ca)),
            trust_env=False,
            timeout=30,
        ) as client:
            yield cls(client, f"{RESOURCE_PATH}/namespaces/{namespace}/{plural}", kind)

    def create(self, spec: object, *, dry: bool = True, name: str = "judged") -> httpx.Response:
        """Create a resource, or ask whether it could be."""
        body = {
            "apiVersion": "worklease.dev/v1alpha1",
            "kind": self.kind,
            "metadata": {"name": name},
            "spec": spec,
        }
        return self.client.post(self.path, params=_strictly(dry=dry), json=body)

    def replace_spec(self, spec: object) -> httpx.Response:
        """Ask whether the spec of the resource that exists could be replaced."""
        patch = [{"op": "replace", "path": "/spec", "value": spec}]
        return self._patch("/judged", patch, "application/json-patch+json")

    def patch_status(self, status: Mapping[str, Any]) -> httpx.Response:
        """Ask whether its status could be written."""
        return self._patch("/judged/status", {"status": status}, "application/merge-patch+json")

    def _patch(self, below: str, patch: object, kind: str) -> httpx.Response:
        return self.client.patch(
            self.path + below,
            params=_strictly(dry=True),
            content=json.dumps(patch),
            headers={"content-type": kind},
        )


def _strictly(*, dry: bool) -> dict[str, str]:
    return {"fieldValidation": "Strict"} | ({"dryRun": "All"} if dry else {})


BOUNDS: Final = ("minLength", "maxLength", "pattern", "minimum", "maximum", "minItems", "maxItems", "maxProperties")


def schema_in(crd: Path) -> dict[str, Any]:
    """Return the schemas of `spec` and `status` of a custom resource definition."""
    read: dict[str, Any] = yaml.safe_load(crd.read_text(encoding="utf-8"))
    schema: dict[str, Any] = read["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    return schema


def walk(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield path, node
    for name, member in node.get("properties", {}).items():
        yield from walk(member, f"{path}.{name}")
    for inner, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(node.get(inner), dict):
            yield from walk(node[inner], path + mark)


def _resolved(node: Any, definitions: Mapping[str, Any]) -> Any:
    """Return a model's JSON schema without references, and without the null that only says "optional"."""
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        return _resolved(definitions[name] | {key: value for key, value in node.items() if key != "$ref"}, definitions)
    if "anyOf" in node:
        [choice] = [choice for choice in node["anyOf"] if choice != {"type": "null"}]
        return _resolved(choice, definitions)
    resolved = {key: _resolved(value, definitions) for key, value in node.items() if key not in {"$defs", "properties"}}
    members = {name: _resolved(member, definitions) for name, member in node.get("properties", {}).items()}
    return resolved | ({"properties": members} if members else {})


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(by_alias=True)
    resolved: dict[str, Any] = _resolved(schema, schema.get("$defs", {}))
    return resolved


def facts(node: Mapping[str, Any], *, with_default: bool) -> dict[str, Any]:
    """Return the part of a node that decides what it accepts, in a notation that both sides share."""
    found = {bound: node[bound] for bound in BOUNDS if bound in node}
    found["type"] = node.get("type")
    found["enum"] = sorted(node.get("enum", ()))
    found["required"] = sorted(node.get("required", ()))
    found["properties"] = sorted(node.get("properties", ()))
    if node.get("format") == "date-time":
        found["format"] = "date-time"
        found.pop("maxLength", None)  # the format bounds it already
    if with_default and node.get("default") is not None:
        found["default"] = {} if isinstance(node["default"], dict) else node["default"]
    return found


def all_facts(root: str, node: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {path: facts(member, with_default=root == "spec") for path, member in walk(node, root)}
