"""The actuators by name."""

from __future__ import annotations

from collections.abc import Mapping

from gainshare.capacity.models import ServedModel
from gainshare.capacity.scaling.actuators.external import ExternalActuator
from gainshare.capacity.scaling.actuators.interface import Actuator
from gainshare.capacity.scaling.actuators.local import LocalActuator
from gainshare.capacity.scaling.actuators.ray_cluster import RayActuator

ACTUATORS: Mapping[str, Actuator] = {
    actuator.name: actuator for actuator in (LocalActuator(), RayActuator(), ExternalActuator())
}


def actuator_of(served: ServedModel) -> Actuator:
    """The actuator of a served model, whose name the database's own check holds."""
    return ACTUATORS[served.actuator]
