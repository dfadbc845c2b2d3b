"""Differences between the configuration that a run was started with and the one it is resumed with.

Does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model.config import ModelConfig

# The bits of sums depend on these and on nothing else of a machine.
MACHINE = ("device", "precision", "threads", "torch")


def shape_changes(saved: ModelConfig, wanted: ModelConfig) -> list[str]:
    """The fields in which two shapes differ, except the name."""
    before, after = flat(saved.to_dict()), flat(wanted.to_dict())
    return [name for name in sorted(before | after) if name != "name" and before.get(name) != after.get(name)]


def changes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Messages about changed settings, and about a machine on which sums may round differently.

    A setting that the saved run's version did not have counts as unchanged while it is off.
    """
    before, after = flat(saved.get("config", {})), flat(now["config"])
    notices = [
        f"{name} was {before.get(name)!r} and is {after.get(name)!r} from here on"
        for name in sorted(before | after)
        if before.get(name) != after.get(name) and (name in before or after[name])
    ]
    machine_before, machine_now = saved.get("machine", {}), now["machine"]
    differing = [name for name in MACHINE if machine_before.get(name) != machine_now.get(name)]
    if differing:
        notices.append(
            f"this machine has another {', '.join(differing)} than the run so far: results stay equal in quality, "
            "but not bit for bit"
        )
    return notices


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables with dotted names; tuples as the lists that JSON makes of them."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            values.update(flat(value, f"{prefix}{key}."))
        else:
            values[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return values
