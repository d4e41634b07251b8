"""What is generated from the chart: its README, and what it renders for a few sets of values.

Owns these files; `make chart` writes them, a test compares them. Must not decide what the chart says.
"""

import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from controlplane import ensure

CHART = Path(__file__).parents[2] / "charts" / "worklease-operator"
RENDERED = Path(__file__).parents[2] / "tests" / "chart" / "rendered"
README = CHART / "README.md"
CRD = "worklease-operator/templates/crds.yaml"

CASES: Mapping[str, tuple[str, ...]] = {
    "defaults": (),
    "namespaced": (
        "watchNamespaces={team-a,team-b}",
        "config.credentialsSecret=worklease",
        "credentials.tenants[0].namespace=team-b",
        "credentials.tenants[0].secretNames={key-1,key-2}",
        "credentials.tenants[1].namespace=team-a",
        "credentials.tenants[1].secretNames={*}",
        "uninstall.policy=Keep",
        "image.tag=dev",
    ),
    "everything": (
        "commonLabels.team=platform",
        "podLabels.mesh=off",
        "podAnnotations.note=yes",
        "imagePullSecrets[0].name=registry",
        "serviceAccount.annotations.role=operator",
        "metrics.enabled=true",
        "metrics.service.labels.scrape=yes",
        "metrics.service.annotations.port=http",
        "networkPolicy.enabled=true",
        "networkPolicy.apiServer.cidrs={10.0.0.0/16}",
        "networkPolicy.workAPI.cidrs={192.0.2.0/24,2001:db8::/32}",
        "networkPolicy.metrics.from[0].namespaceSelector.matchLabels.name=monitoring",
        "networkPolicy.dns.to[0].namespaceSelector.matchLabels.name=kube-system",
        "flowControl.enabled=true",
        "proxy.httpsProxy=http://proxy.example.com:3128",
        "privateCA.configMapName=authorities",
        "priorityClassName=system-cluster-critical",
        "runtimeClassName=gvisor",
        "nodeSelector.pool=system",
        "topologySpreadConstraints[0].maxSkew=1",
        "topologySpreadConstraints[0].topologyKey=zone",
        "topologySpreadConstraints[0].whenUnsatisfiable=ScheduleAnyway",
        "extraEnv[0].name=TZ",
        "extraEnv[0].value=UTC",
        "extraVolumes[0].name=more",
        "extraVolumes[0].emptyDir.medium=Memory",
        "extraVolumeMounts[0].name=more",
        "extraVolumeMounts[0].mountPath=/more",
        "admissionPolicy.allowedServiceAccounts={sandbox}",
        "admissionPolicy.allowEnvironmentKeyInSandbox=true",
        "admissionPolicy.validationActions={Warn,Audit}",
    ),
    "minimal": (
        "crds.enabled=false",
        "rbac.create=false",
        "rbac.aggregate=false",
        "serviceAccount.create=false",
        "serviceAccount.name=theirs",
        "admissionPolicy.enabled=false",
        "tolerations=null",
        "uninstall.policy=Keep",
    ),
    "simulator": ("simulator.enabled=true", "networkPolicy.enabled=true"),
    "openshift": (
        f"--values={CHART / 'values-openshift.yaml'}",
        "simulator.enabled=true",
        "networkPolicy.enabled=true",
    ),
}


def render(case: str, helm: str = "helm") -> str:
    """Give what the chart renders for a case, without the CRD, which is a file of its own; `helm` is a pinned tool."""
    command = [str(ensure([helm])[helm]), "template", "worklease-operator", str(CHART)]
    command += [
        "--namespace=worklease-system",
        *(each if each.startswith("--") else f"--set={each}" for each in CASES[case]),
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HELM_")}
    done = subprocess.run(
        command, env=environment | {"KUBECONFIG": os.devnull}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"the case {case} does not render: {done.stderr.strip()}")
    documents = done.stdout.split("---\n")
    return "---\n".join(each for each in documents if f"# Source: {CRD}" not in each)


def readme() -> str:
    """Give the chart's README as it should be: README.md.gotmpl, with the table of values."""
    with tempfile.TemporaryDirectory(prefix="worklease-chart-") as folder:
        copy = Path(folder) / CHART.name
        copy.mkdir()
        for name in ("Chart.yaml", "values.yaml", "README.md.gotmpl"):
            (copy / name).write_bytes((CHART / name).read_bytes())
        binary = ensure(["helm-docs"])["helm-docs"]
        command = [str(binary), f"--chart-search-root={folder}", "--sort-values-order=file", "--log-level=warning"]
        subprocess.run(command, check=True, cwd=folder)
        return (copy / "README.md").read_text()
