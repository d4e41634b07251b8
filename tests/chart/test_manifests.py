"""The chart renders valid Kubernetes objects, by kubeconform with the schemas of the pinned API server."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import chart
from controlplane import ControlPlane, ensure
from support import schemas
from support.chart import objects
from support.cluster import CUSTOM_RESOURCES

pytestmark = [
    pytest.mark.usefixtures("helm"),
    pytest.mark.xdist_group("schemas of the API server"),  # reading them takes three seconds of one core
]

Check = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def kubeconform(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Check:
    location = schemas.write(tmp_path_factory.mktemp("schemas"), control_plane.get("/openapi/v2"), CUSTOM_RESOURCES)
    command = [str(ensure(["kubeconform"])["kubeconform"]), "-strict", "-summary", f"-schema-location={location}", "-"]

    def check(manifest: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, input=manifest, capture_output=True, text=True, check=False)

    return check


@pytest.mark.parametrize("case", chart.CASES)
def test_every_object_is_valid(kubeconform: Check, case: str) -> None:
    manifest = chart.render(case)
    done = kubeconform(manifest)
    assert done.returncode == 0, done.stdout
    assert f"Valid: {len(objects(manifest))}, Invalid: 0, Errors: 0, Skipped: 0" in done.stdout


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("terminationGracePeriodSeconds: 30", "terminationGracePeriod: 30"),
        ("replicas: 2", "replicas: two"),
        ("workID: work_demo1", "workId: work_demo1"),
    ],
)
def test_an_object_that_is_not_valid_would_be_found(kubeconform: Check, right: str, wrong: str) -> None:
    manifest = chart.render("simulator")
    assert right in manifest
    assert kubeconform(manifest.replace(right, wrong)).returncode == 1


def test_the_examples_are_valid(kubeconform: Check) -> None:
    for path in sorted((Path(__file__).parents[2] / "examples").glob("*.yaml")):
        done = kubeconform(path.read_text())
        assert done.returncode == 0, done.stdout
