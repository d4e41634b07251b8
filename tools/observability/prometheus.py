"""A real Prometheus that scrapes one operator, evaluates the chart's alerts, and answers queries.

Owns that process and its typed client.
"""

import json
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from controlplane import ensure, wait_for
from controlplane.processes import Processes

EVERY = 1  # seconds between two scrapes: what takes minutes elsewhere must be visible within one minute here
START_SECONDS = 60.0
NAMESPACE = "worklease-system"  # where a release would live; the operator under test has no namespace of its own

CONFIGURATION = """\
global: {{scrape_interval: {every}s, scrape_timeout: {every}s, evaluation_interval: {every}s}}
rule_files: [alerts.yaml]
scrape_configs:
  - job_name: worklease
    static_configs:
      - targets: ["{target}"]
        labels: {{namespace: {namespace}}}
"""


class Prometheus:
    """The process, as a context manager; its files are in `home`."""

    def __init__(self, home: Path, target: str, alerts: str, port: int) -> None:
        (home / "alerts.yaml").write_text(alerts)
        text = CONFIGURATION.format(every=EVERY, target=target, namespace=NAMESPACE)
        (home / "prometheus.yaml").write_text(text)
        self._processes = Processes(home)
        self._url = f"http://127.0.0.1:{port}"
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        program = ensure(["prometheus"])["prometheus"]
        options = [
            f"--config.file={home / 'prometheus.yaml'}",
            f"--storage.tsdb.path={home / 'series'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=warn",
        ]
        self._processes.start("prometheus", [str(program), *options])

    def __enter__(self) -> Self:
        wait_for(self._is_ready, seconds=START_SECONDS, what="Prometheus")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._processes.close()

    def _is_ready(self) -> bool:
        try:
            with self._opener.open(f"{self._url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)  # noqa: PLR2004 (HTTP's OK)
        except urllib.error.URLError:
            return False

    def _ask(self, path: str, **parameters: object) -> Any:
        query = urllib.parse.urlencode(parameters)
        try:
            with self._opener.open(f"{self._url}/api/v1/{path}?{query}", timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(f"Prometheus refused {parameters}: {error.read().decode()}") from error

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an expression now; each has `metric` and `value`."""
        return list(self._ask("query", query=expression)["result"])

    def query_range(self, expression: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """Return the series of an expression between two times; each has `metric` and `values`."""
        return list(self._ask("query_range", query=expression, start=start, end=end, step=step)["result"])

    def firing(self) -> dict[str, dict[str, Any]]:
        """Return the alerts that fire now, by name."""
        found = self._ask("alerts")["alerts"]
        return {alert["labels"]["alertname"]: alert for alert in found if alert["state"] == "firing"}
