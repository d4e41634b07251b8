"""The settings' page: every variable with its default, bounds and meaning, as the settings' own source says it.

Owns the page's form. Must not say anything of a setting that its source does not.
"""

import ast
import types
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from worklease.settings import PREFIX, Settings

HEAD: Final = """\
<!-- Written by `make docs` from operator/worklease/settings.py. -->
# Settings

Environment variables of `worklease run`. A wrong value, or a variable that begins with `WORKLEASE_` and is no setting,
stops the process at its start with one clear line that names it. An empty value counts as not set.

| Variable | Default | |
|---|---|---|
"""
TAIL: Final = """
`HTTPS_PROXY`, `NO_PROXY` and the like are honoured. A private certificate authority of the Work API is given by
`SSL_CERT_FILE`. The cluster is that of the pod's service account, else that of `KUBECONFIG`'s current context.
"""


def page(source: str) -> str:
    """Write the page from the source of the settings."""
    meanings = _meanings(source)
    rows = (
        f"| `{PREFIX}{name.upper()}` | {_default(field)} | {meanings[name]}{_values(field)} |"
        for name, field in Settings.model_fields.items()
    )
    return HEAD + "\n".join(rows) + "\n" + TAIL


def _meanings(source: str) -> Mapping[str, str]:
    """Read what the string below each field says; a field without one is an error."""
    (settings,) = (
        node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == "Settings"
    )
    found: dict[str, str] = {}
    for field, below in zip(settings.body, settings.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(meaning))):
                found[name] = " ".join(meaning.replace("``", "`").replace("|", "\\|").split())
            case _:
                pass
    return found


def _default(field: FieldInfo) -> str:
    if field.default in (None, (), PydanticUndefined):
        return "not set"
    text = f"{field.default:g}" if isinstance(field.default, float) else str(field.default).rstrip("/")
    return f"`{text}`"


def _values(field: FieldInfo) -> str:
    """Say in a sentence what a value may be, where it is one of a few or within bounds."""
    choices = [choice for kind in _kinds(field.annotation) if get_origin(kind) is Literal for choice in get_args(kind)]
    if choices:
        return " One of " + ", ".join(f"`{choice}`" for choice in choices) + "."
    bounds = ", ".join(_bounds(field))
    return f" {bounds[:1].upper()}{bounds[1:]}." if bounds else ""


def _kinds(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _bounds(field: FieldInfo) -> Iterator[str]:
    for limit in field.metadata:
        for name, words in (("ge", "at least"), ("gt", "more than"), ("le", "at most")):
            if (bound := getattr(limit, name, None)) is not None:
                yield f"{words} {bound:,}"
