"""Settings of every test: hypothesis does not time examples, because machines are noisy."""

from hypothesis import settings

settings.register_profile(
    "ostiary", parent=settings.get_profile(settings.get_current_profile_name()), deadline=None
)
settings.load_profile("ostiary")
