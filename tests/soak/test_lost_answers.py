"""Answers that get lost give up no lease that the server still has: short forms of the soak and of its model."""

import pytest

from controlplane import ControlPlane
from soak.loss_model import given_up
from soak.lost_answers import lose_every_acceptance, play

SECONDS = 17.0  # longer than the time from a beat to the fence at a TTL of 20 s


@pytest.mark.journey
def test_leases_whose_accepted_beats_all_lose_their_answers_are_kept(control_plane: ControlPlane) -> None:
    outcome = play(control_plane, "o", [20] * 5, seconds=SECONDS, lose=lose_every_acceptance)
    assert outcome.given_up == []
    assert outcome.violations == []
    assert min(loss.unanswered for loss in outcome.losses) >= 2, "the beats that lost their answers"


@pytest.mark.parametrize("names_values", [True, False])
def test_while_two_of_five_answers_get_lost_hardly_a_lease_of_20_seconds_is_given_up(*, names_values: bool) -> None:
    waited_for = given_up(400, ttl=20, names_values=names_values, gives_up_early=False)
    early = given_up(400, ttl=20, names_values=names_values, gives_up_early=True)
    assert early <= 0.02, "by the rules"
    assert waited_for >= 0.15, "what giving up early is for"
