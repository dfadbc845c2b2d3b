"""Differences between the configuration that a run was started with and the one it is resumed with.

Does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model.config import ModelConfig

# Bits of sums depend on these; everything else on a machine may change without a trace.
MACHINE = ("device", "precision", "threads", "torch")


def shape_changes(saved: ModelConfig, wanted: ModelConfig) -> list[str]:
    """The fields, but for the name, in which two shapes differ."""
    before, after = flat(saved.to_dict()), flat(wanted.to_dict())
    return [name for name in sorted(before | after) if name != "name" and before.get(name) != after.get(name)]


def changes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Sentences for a person: changed settings, and a machine on which sums may round otherwise.

    A setting that the saved run did not know, since its version had none, has not changed while it is off.
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
            f"this machine has another {', '.join(differing)} than the run so far: results go on equal in quality, "
            "not in every bit"
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
