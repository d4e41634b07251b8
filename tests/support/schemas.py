"""Strict JSON schemas of Kubernetes objects for kubeconform, from the API server's own description.

This module owns the translation. It must not fetch anything: the schemas belong to the version that the tests run on.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

KINDS = "x-kubernetes-group-version-kind"
OPEN = "x-kubernetes-preserve-unknown-fields"
LOCATION = "{{.Group}}-{{.ResourceAPIVersion}}-{{.ResourceKind}}.json"


def write(folder: Path, openapi: Mapping[str, Any], custom_resource: Path) -> str:
    """Write a schema for each kind and the custom resource, and return kubeconform's schema location."""
    definitions = {name: _strict(schema) for name, schema in openapi["definitions"].items()}
    # The server accepts both, but its schema says so only in the description.
    definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"] = {"type": ["string", "integer"]}
    for name, schema in openapi["definitions"].items():
        for kind in schema.get(KINDS, ()):
            content = {"$ref": f"#/definitions/{name}", "definitions": definitions}
            _path(folder, kind["group"], kind["version"], kind["kind"]).write_text(json.dumps(content))
    resource = yaml.safe_load(custom_resource.read_text())["spec"]
    for version in resource["versions"]:
        schema = version["schema"]["openAPIV3Schema"]
        schema["properties"]["metadata"] = {"$ref": "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
        content = _strict(schema) | {"definitions": definitions}
        _path(folder, resource["group"], version["name"], resource["names"]["kind"]).write_text(json.dumps(content))
    return f"{folder}/{LOCATION}"


def _path(folder: Path, group: str, version: str, kind: str) -> Path:
    # For the core group, kubeconform uses the version as the group.
    return folder / f"{group.lower() or version}-{version}-{kind.lower()}.json"


def _strict(schema: Any) -> Any:
    """Return the schema with unknown fields forbidden wherever fields are described."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {name: _strict(each) for name, each in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get(OPEN) and "additionalProperties" not in schema:
        strict["additionalProperties"] = False
    return strict
