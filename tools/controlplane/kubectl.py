"""kubectl, bound to one cluster.

Must never fall back to the user's own kubeconfig: each call names the file.
"""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

# A call that takes longer waits for something that will not happen; `kubectl wait` has its own, shorter --timeout.
TIMEOUT_SECONDS = 300.0


class KubectlError(Exception):
    """kubectl refused; the message is what it said."""


def run_kubectl(
    command: tuple[str, ...], arguments: tuple[str, ...], *, text: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run kubectl with the options that bind it to its cluster, then the arguments."""
    return subprocess.run(
        [*command, *arguments],
        input=text,
        stdin=subprocess.DEVNULL if text is None else None,
        env=quiet_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_SECONDS,
    )


def output_of(command: tuple[str, ...], arguments: tuple[str, ...], *, text: str | None, check: bool) -> str:
    """Return what kubectl printed. With check=False this includes its errors; otherwise KubectlError has them."""
    done = run_kubectl(command, arguments, text=text)
    if not check:
        return done.stdout + done.stderr
    if done.returncode != 0:
        raise KubectlError(f"kubectl {' '.join(arguments)} failed with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def bound(binary: Path, kubeconfig: Path, *, context: str | None = None, cache: Path | None = None) -> tuple[str, ...]:
    """Return the words with which every call to a cluster begins."""
    words = [str(binary), f"--kubeconfig={kubeconfig}"]
    if context is not None:
        words.append(f"--context={context}")
    if cache is not None:
        words.append(f"--cache-dir={cache}")  # its own discovery cache: different servers use the same ports over time
    return tuple(words)


def quiet_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment without variables that would make kubectl use another cluster or change its defaults."""
    return {name: value for name, value in environ.items() if name != "KUBECONFIG"} | {"KUBERC": "off"}
