"""All policies by the names that served models have for them."""

from __future__ import annotations

from collections.abc import Mapping

from gainshare.capacity.policies import forecast, hpa, kpa, ray
from gainshare.capacity.policies.fixed import fixed
from gainshare.capacity.policies.observed import Policy

POLICIES: Mapping[str, Policy] = {
    "fixed": fixed,
    "kpa": kpa.kpa,
    "hpa": hpa.hpa,
    "ray": ray.ray,
    "forecast": forecast.forecast,
}
# How often each is asked, in seconds, where it was published with an interval of its own.
TICKS_S: Mapping[str, float] = {
    "fixed": 60.0,
    "kpa": kpa.TICK_S,
    "hpa": hpa.TICK_S,
    "ray": ray.TICK_S,
    "forecast": forecast.TICK_S,
}
