"""Hypothesis draws the same examples each time, so that a red test is the code's fault.

HYPOTHESIS_PROFILE=explore draws new ones, and more.
"""

import os

from hypothesis import settings

settings.register_profile("steady", derandomize=True, deadline=None, max_examples=100)
settings.register_profile("explore", deadline=None, max_examples=3000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))
