"""Hypothesis profiles: the same examples on every machine, or, on request, many more that nobody saw before."""

import os

from hypothesis import settings

settings.register_profile("default-run", derandomize=True, print_blob=True, deadline=None)
settings.register_profile("soak", derandomize=False, print_blob=True, deadline=None, max_examples=100_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default-run"))
