"""Property tests say what holds, not how fast this machine is today: no deadlines, no complaints about slow drawing."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
