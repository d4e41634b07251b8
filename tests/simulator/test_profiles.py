"""The switches: each value that is not the default is in some named profile."""

from dataclasses import fields
from enum import StrEnum

import pytest

from work_api_simulator.profiles import HOSTED, PROFILES, Profile

SWITCHES = [
    (field.name, value)
    for field in fields(Profile)
    if isinstance(default := field.default, StrEnum)
    for value in type(default)
]


@pytest.mark.parametrize(("switch", "value"), SWITCHES)
def test_every_value_of_every_switch_has_a_profile(switch: str, value: StrEnum) -> None:
    assert any(getattr(profile, switch) is value for profile in PROFILES.values())


def test_the_first_value_of_each_switch_is_the_hosted_services() -> None:
    first = dict(reversed(SWITCHES))
    assert {name: getattr(HOSTED, name) for name in first} == first


def test_the_other_differences_have_a_profile_too() -> None:
    assert {60, 300} <= {profile.default_ttl for profile in PROFILES.values()}
    assert any(profile.list_lag_seconds for profile in PROFILES.values())
    assert any(profile.writes_per_minute for profile in PROFILES.values())
