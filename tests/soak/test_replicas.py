"""Several processes, of which one or all cannot reach the API server: short forms of the soak."""

import pytest

from controlplane import ControlPlane
from soak.replicas import cut_off

TTL = 15  # a busy machine needs more than the ten seconds that are promised to hold
SECONDS = 20.0  # longer than a TTL, and than the time until a bucket is taken; the soak's are two and three TTLs


@pytest.mark.journey
@pytest.mark.long(seconds=50)
def test_a_process_that_is_cut_off_costs_no_lease_and_touches_nothing_though_answers_get_lost(
    control_plane: ControlPlane,
) -> None:
    assert cut_off(control_plane, processes=2, cut=1, ttl=TTL, seconds=SECONDS, share=0.2) == []


@pytest.mark.journey
@pytest.mark.long(seconds=50)
def test_while_the_api_server_is_away_no_lease_lapses_and_nothing_is_touched(control_plane: ControlPlane) -> None:
    assert cut_off(control_plane, processes=2, cut=2, ttl=TTL, seconds=SECONDS, share=0.0) == []
