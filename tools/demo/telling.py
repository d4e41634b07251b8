"""What every story needs: waiting for a condition, checking claims, showing tables.

Must not know any story.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from controlplane import wait_for
from demo.claims import Claim
from demo.grounds import Grounds
from demo.screen import Screen
from demo.simulator import Simulator
from demo.snapshot import Snapshot
from demo.stage import Stage


@dataclass(slots=True)
class Telling:
    """Where a story takes place, the screen that shows it, and the claims so far."""

    stage: Stage
    grounds: Grounds
    simulator: Simulator
    screen: Screen
    claims: list[Claim] = field(default_factory=list, init=False)

    def until(self, condition: Callable[[Snapshot], bool], seconds: float, what: str) -> Snapshot:
        """Wait until a condition holds and return what was seen then; raise DeadlineError if it does not."""

        def met() -> Snapshot | None:
            snapshot = self.stage.look(self.grounds)
            self.screen.show(snapshot)
            return snapshot if condition(snapshot) else None

        snapshot = wait_for(met, seconds=seconds, what=what)
        assert snapshot is not None  # noqa: S101  # wait_for returns no empty value
        return snapshot

    def judge(self, claim: Claim) -> None:
        """Show a claim and keep it."""
        self.claims.append(claim)
        self.screen.claim(claim)

    def table(self, *words: str) -> None:
        """Show a kubectl command and what it prints."""

        def printed() -> str:
            shown = self.grounds.kubectl(*words, f"--namespace={self.grounds.namespace}")
            return f"$ kubectl {' '.join(words)}\n{shown}"

        self.screen.table(printed)
