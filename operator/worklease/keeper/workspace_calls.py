"""The calls by which a kept resource gets the volume of its session, before its pod is made.

Owns how the volume is found, made and taken into use, and what keeps it from that. Must not start anything by itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from worklease.api.models import WorkspaceSpec
from worklease.clocks import ClockPair
from worklease.cluster.client import Done, Gone, NoAnswer, NotDone, Refused
from worklease.cluster.pods import DryRunAccepted, NotAdmitted
from worklease.cluster.workspace_claims import WorkspaceClaims, not_admitted
from worklease.cluster.workspace_objects import claim_body, claim_name, session_of, use_of
from worklease.keeper.calls import Clients, KeptCalls
from worklease.keeper.kept import Kept
from worklease.rules.acts import Act
from worklease.rules.pods import Obstacle
from worklease.rules.workspaces import AwaitEnd, MakeVolume, Mount, Volume, choose


@dataclass(frozen=True, slots=True)
class Ready:
    """The volume can be mounted: by this claim, or by none where the resource asks for no workspace."""

    claim: str | None


class WorkspaceCalls(KeptCalls):
    """The calls about the volumes of kept resources."""

    def __init__(
        self,
        clients: Clients,
        clock: Callable[[], float],
        wall: Callable[[], ClockPair],
        secret: Callable[[Kept], tuple[str, str]],
    ) -> None:
        super().__init__(clients, clock, wall, secret)
        self._claims = WorkspaceClaims(clients.kubernetes)

    async def dry_run(self, kept: Kept) -> DryRunAccepted | NotAdmitted:
        """Ask whether the API server would make the claim of the resource's session, if there was none."""
        return await self._claims.dry_run(kept.resource)

    async def take(self, kept: Kept) -> Ready | NotAdmitted | None:
        """Find the volume of the resource's session, or make it, and note on it that this resource uses it.

        Whoever wants to delete it has seen an earlier state of it then, and its deletion is refused. None: another
        process may keep the resource by now.
        """
        if (workspace := workspace_of(kept)) is None:
            return Ready(None)
        found = await self._claims.of_session(kept.resource.namespace, session_of(kept.resource))
        if isinstance(found, Refused | NoAnswer):
            return not_admitted(found)
        if not self._may(Act.WRITE_VOLUME, kept):
            return None
        match choose(found):
            case MakeVolume():
                return await self._make(kept, workspace)
            case AwaitEnd(volume):
                return _busy(volume)
            case Mount(volume) if volume.is_ours:
                return await self._use(kept, workspace, volume)
            case Mount(volume):
                return Ready(volume.name)
            case chosen:
                assert_never(chosen)

    async def _make(self, kept: Kept, workspace: WorkspaceSpec) -> Ready | NotAdmitted:
        body = claim_body(kept.resource, workspace)
        name = claim_name(session_of(kept.resource))
        match await self._claims.make(kept.resource.namespace, body):
            case Done():
                return Ready(name)
            case Refused() as refused if refused.is_by_name:
                message = f"PersistentVolumeClaim {name} is there, and its labels do not name this session: delete it"
                return NotAdmitted(Obstacle.SPEC, message)
            case (Refused() | NoAnswer()) as failure:
                return not_admitted(failure)
            case reply:
                assert_never(reply)

    async def _use(self, kept: Kept, workspace: WorkspaceSpec, volume: Volume) -> Ready | NotAdmitted:
        used = await self._claims.annotate(kept.resource.namespace, volume, use_of(kept.resource, workspace))
        match used:
            case Volume(is_ending=True):
                return _busy(used)
            case Volume(name=name):
                return Ready(name)
            case Gone():
                return _busy(volume)
            case NotDone(message):
                return NotAdmitted(Obstacle.ADMISSION, f"PersistentVolumeClaim {volume.name}: {message}")
            case _:
                assert_never(used)


def workspace_of(kept: Kept) -> WorkspaceSpec | None:
    """Return the workspace that a resource asks for; None: it asks for none."""
    sandbox = kept.resource.spec.sandbox
    return None if sandbox is None else sandbox.workspace


def _busy(volume: Volume) -> NotAdmitted:
    message = f"PersistentVolumeClaim {volume.name} of the session is being deleted; another one is made after that"
    return NotAdmitted(Obstacle.VOLUME, message)
