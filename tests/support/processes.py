"""What can be seen of processes from outside.

This module must not start or end any.
"""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]


def is_alive(pid: int) -> bool:
    """Whether a process still runs; a zombie does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    # The state follows the name in parentheses. In a container, orphans may stay zombies.
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def python_environment(**extra: str) -> dict[str, str]:
    """Return an environment in which a Python process finds the tools and the tests' support."""
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "tools"), str(ROOT / "tests")])} | extra
