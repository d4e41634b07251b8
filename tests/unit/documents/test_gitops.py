"""The manifests for Argo CD and Flux in docs/gitops.md, tried as far as that goes without the tools.

Argo CD's health check runs in Lua, as there. Of Flux's expressions, which are CEL, the few forms that the page uses are
translated to Python; a form that is not known here fails.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import pytest
import yaml
from lupa import LuaRuntime  # type: ignore[import-untyped]  # it has no types of its own

from support.documents import DOCS, ROOT, blocks
from worklease.api.names import GROUP, VERSION
from worklease.rules.reasons import Level, row_of

PAGE: Final = DOCS / "gitops.md"
OBJECTS: Final = [
    each for block in blocks(PAGE) if block.language == "yaml" for each in yaml.safe_load_all(block.text) if each
]
VALUES: Final = json.loads((ROOT / "charts" / "worklease-operator" / "values.schema.json").read_text())["properties"]
CONDITION: Final = r"(\w+)\.type == '(\w+)' && \1\.status == '(\w+)'"
REASONS: Final = r"!\(\w+\.reason in (\[[^\]]*\])\)"

Conditions = Mapping[str, tuple[str, str]]
"""The status and the reason of each condition, by its type."""


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = [each for each in OBJECTS if each.get("kind") == kind]
    return dict(found)


def argo_says(conditions: Conditions | None) -> str:
    """Return Argo CD's verdict on a WorkLease, by the page's script."""
    script = of_kind("ConfigMap")["data"][f"resource.customizations.health.{GROUP}_WorkLease"]
    lua = LuaRuntime(unpack_returned_tuples=True)
    body: dict[str, Any] = {"metadata": {"name": "a"}}
    if conditions is not None:
        entries = [{"type": kind, "status": has[0], "reason": has[1]} for kind, has in conditions.items()]
        body["status"] = {"conditions": entries}
    lua.globals().obj = lua.table_from(body, recursive=True)
    return str(lua.execute(script)["status"])


def flux_says(conditions: Conditions) -> str:
    """Return Flux's verdict: the first expression that is true, in Flux's order; without any, it waits."""
    (checked,) = of_kind("Kustomization")["spec"]["healthCheckExprs"]
    assert (checked["apiVersion"], checked["kind"]) == (f"{GROUP}/{VERSION}", "WorkLease")
    known = [verdict for verdict in ("inProgress", "failed", "current") if verdict in checked]
    return next((verdict for verdict in known if is_true(checked[verdict], conditions)), "inProgress")


def is_true(expression: str, conditions: Conditions) -> bool:
    return any(is_term_true(term, conditions) for term in expression.split(" || "))


def is_term_true(term: str, conditions: Conditions) -> bool:
    read = re.fullmatch(r"status\.conditions\.exists\((\w+), (?=\1\.)(.*)\)", term)
    assert read is not None, term
    form = re.fullmatch(rf"{CONDITION}(?: && {REASONS})?", read[2])
    assert form is not None, term
    status, reason = conditions.get(form[2], ("", ""))
    excepted = json.loads(form[4].replace("'", '"')) if form[4] else []
    return status == form[3] and reason not in excepted


IN_PROGRESS: Final = ("False", "InProgress")


@pytest.mark.parametrize(
    ("conditions", "argo", "flux"),
    [
        ({}, "Progressing", "inProgress"),
        ({"Ready": ("Unknown", "Claiming"), "Finished": IN_PROGRESS}, "Progressing", "inProgress"),
        ({"Ready": ("False", "Unauthorized"), "Finished": IN_PROGRESS}, "Progressing", "inProgress"),
        ({"Ready": ("True", "Healthy"), "Finished": IN_PROGRESS}, "Healthy", "current"),
        ({"Ready": ("False", "LeaseNotHeld"), "Finished": ("True", "Stopped")}, "Healthy", "current"),
        ({"Ready": ("False", "LeaseNotHeld"), "Finished": ("True", "TakenOver")}, "Degraded", "failed"),
    ],
)
def test_a_leases_health_goes_by_finished_and_ready(conditions: Conditions, argo: str, flux: str) -> None:
    assert argo_says(conditions) == argo
    assert flux_says(conditions) == flux


def test_a_lease_without_a_status_is_progressing() -> None:
    assert argo_says(None) == "Progressing"


@pytest.mark.parametrize("reason", ["Stopped", "Released", "Requeued", "TakenOver", "NotFound", "Expired"])
def test_an_end_that_somebody_asked_for_is_healthy_and_no_other(reason: str) -> None:
    is_as_asked = row_of(reason).level is Level.OVER
    assert argo_says({"Finished": ("True", reason)}) == ("Healthy" if is_as_asked else "Degraded")
    assert flux_says({"Finished": ("True", reason)}) == ("current" if is_as_asked else "failed")


def test_the_values_are_the_charts_and_the_chart_is_where_the_manifests_say() -> None:
    argo, flux = of_kind("Application")["spec"]["source"], of_kind("HelmRelease")["spec"]
    for path, values in (
        (argo["path"], argo["helm"]["valuesObject"]),
        (flux["chart"]["spec"]["chart"], flux["values"]),
    ):
        assert (ROOT / path / "Chart.yaml").is_file()
        assert set(values) <= set(VALUES)
    assert argo["helm"]["valuesObject"]["uninstall"]["tool"] in VALUES["uninstall"]["properties"]["tool"]["enum"]
    assert "uninstall" not in flux["values"]


def test_the_versions_are_the_charts() -> None:
    version = yaml.safe_load((ROOT / "charts" / "worklease-operator" / "Chart.yaml").read_text())["version"]
    assert of_kind("Application")["spec"]["source"]["targetRevision"] == f"v{version}"
    assert of_kind("GitRepository")["spec"]["ref"]["tag"] == f"v{version}"
