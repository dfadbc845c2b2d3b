"""What a token costs by the clock: device time of a canary, at the price that maintainers set for its class of devices."""

from __future__ import annotations

from dataclasses import dataclass

from gainshare.capacity.models import Deployment, DeploymentState

HOUR_NS = 3_600 * 10**9
MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class DeviceCost:
    """Micro-credits of device time for a million output tokens at so many answers at once, of one class."""

    device_class: str
    batch: int
    token_ns: int
    price_microcredits_per_device_hour: int

    @property
    def microcredits_per_million_tokens(self) -> int:
        """Rounded up: one token of each answer takes ``token_ns``, and they share the device."""
        exact = self.token_ns * MILLION * self.price_microcredits_per_device_hour
        return -(-exact // (self.batch * HOUR_NS))


def device_costs(model: str) -> tuple[DeviceCost, ...]:
    """Costs of the tree that the model is served by, one for each batch that its canary clocked.

    Empty where no clocked deployment serves it, or its host is not known.
    """
    serving = (
        Deployment.objects.filter(model=model, state=DeploymentState.SERVING, host__isnull=False)
        .select_related("host__device_class")
        .first()
    )
    if serving is None or serving.host is None:
        return ()
    device_class = serving.host.device_class
    return tuple(
        DeviceCost(
            device_class.name,
            int(row["batch"]),
            int(row["candidate_ns"]),
            device_class.price_microcredits_per_device_hour,
        )
        for row in serving.result.get("batch_times", [])
        if int(row["batch"]) > 0
    )
