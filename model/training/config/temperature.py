"""Valid range of a distillation temperature. Does not import torch."""

from __future__ import annotations

from model.config import ConfigError

# Beyond, t^2 times a divergence of fp32 numbers is rounding: at 1000 some per cent, from 10,000 on it turns negative.
LOWEST, HIGHEST = 0.01, 100.0


def require_temperature(temperature: float) -> None:
    """Raises ConfigError unless a divergence at `temperature` keeps enough of its digits."""
    if not LOWEST <= temperature <= HIGHEST:
        raise ConfigError(f"a temperature must be from {LOWEST:g} to {HIGHEST:g}, not {temperature}")
