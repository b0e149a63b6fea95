"""Settings of every test: hypothesis does not time examples, and draws the same ones each time.

Machines are noisy, so no example has a deadline. A run that passes here passes anywhere: examples
follow from the test alone. `HYPOTHESIS_PROFILE=explore make test` draws new ones and more of them.
"""

from __future__ import annotations

import os

from hypothesis import settings

_parent = settings.get_profile(settings.get_current_profile_name())
settings.register_profile("ostiary", parent=_parent, deadline=None, derandomize=True, database=None)
settings.register_profile("explore", parent=_parent, deadline=None, max_examples=300)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ostiary"))
