"""The resource reference: every field of each custom resource, as its schema describes it.

Owns the page's form. Must not say anything that the schema does not.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml

Schema = Mapping[str, Any]

HEAD: Final = """\
<!-- Written by `make docs` from crds/{plural}.yaml. -->
# {title}

`{kind}`, `worklease.dev/v1alpha1`, short name `{short}`, namespaced. `kubectl explain {singular}.spec` shows the same
in a terminal. `kubectl apply` rejects unknown fields; the API server drops them.

"""
LIMITS: Final = (
    ("minimum", "at least {}"),
    ("maximum", "at most {}"),
    ("maxLength", "at most {} characters"),
    ("maxItems", "at most {} entries"),
    ("maxProperties", "at most {} entries"),
    ("pattern", "matches `{}`"),
)


def page(text: str, title: str) -> str:
    """Write the page from the custom resource definition's YAML."""
    spec = yaml.safe_load(text)["spec"]
    version, names = spec["versions"][0], spec["names"]
    schema = version["schema"]["openAPIV3Schema"]
    singular = names["singular"]
    head = HEAD.format(
        title=title, kind=names["kind"], plural=names["plural"], singular=singular, short=names["shortNames"][0]
    )
    parts = [head + schema["description"], _columns(singular, version["additionalPrinterColumns"])]
    for name in ("spec", "status"):
        part = schema["properties"][name]
        parts += [f"## {name}\n\n{part['description']}", "\n\n".join(_fields(part, f"{name}"))]
        if rules := [*_rules(part), *(schema.get("x-kubernetes-validations", ()) if name == "spec" else ())]:
            listed = "\n".join(f"- {rule['message']}" for rule in rules)
            parts.append(f"Also rejected, besides values outside a field's own limits:\n\n{listed}")
    return "\n\n".join(parts) + "\n"


def _rules(schema: Schema) -> Iterator[Schema]:
    """Yield the rules of a part and of what is below it."""
    yield from schema.get("x-kubernetes-validations", ())
    for field in schema.get("properties", {}).values():
        yield from _rules(field)


def _columns(singular: str, columns: list[Schema]) -> str:
    rows = "\n".join(
        f"| {column['name']} | {'wide' if column.get('priority') else 'always'} | {column['description']} |"
        for column in columns
    )
    return f"## Columns of `kubectl get {singular}`\n\n| Column | Shown | |\n|---|---|---|\n{rows}"


def _fields(schema: Schema, path: str) -> Iterator[str]:
    """Write each field below ``path``, then those below it."""
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        yield _field(field, f"{path}.{name}", is_required=name in required)
        inner = field.get("items", field)
        yield from _fields(inner, f"{path}.{name}" + ("[]" if "items" in field else ""))


def _field(field: Schema, path: str, *, is_required: bool) -> str:
    facts = [_kind(field)]
    if is_required:
        facts.append("required")
    if field.get("default") not in (None, {}):
        facts.append(f"default `{_literal(field['default'])}`")
    if choices := field.get("enum"):
        facts.append("one of " + ", ".join(f"`{choice}`" for choice in choices))
    facts += [text.format(field[key]) for key, text in LIMITS if key in field]
    return f"### `{path}`\n\n*{'; '.join(facts)}*\n\n{field['description']}"


def _kind(field: Schema) -> str:
    if "items" in field:
        return f"list of {field['items']['type']}s"
    if "additionalProperties" in field:
        return f"map to {field['additionalProperties']['type']}s"
    if field.get("format") == "date-time":
        return "time, RFC 3339"
    return str(field["type"])


def _literal(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
