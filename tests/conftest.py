"""Settings of all tests: none is about how fast this machine happens to be."""

from hypothesis import settings

settings.register_profile("any speed", parent=settings(), deadline=None)
settings.load_profile("any speed")
