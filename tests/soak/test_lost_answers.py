"""Answers that get lost give up no lease that the server still has: a short form of `soak.lost_answers`."""

import pytest

from controlplane import ControlPlane
from soak.lost_answers import lose_every_acceptance, play

SECONDS = 17.0  # longer than the time from a beat to the fence at a TTL of 20 s


@pytest.mark.journey
def test_leases_whose_accepted_beats_all_lose_their_answers_are_kept(control_plane: ControlPlane) -> None:
    outcome = play(control_plane, "o", [20] * 5, seconds=SECONDS, lose=lose_every_acceptance)
    assert outcome.given_up == []
    assert outcome.violations == []
    assert min(loss.unanswered for loss in outcome.losses) >= 2, "the beats that lost their answers"
