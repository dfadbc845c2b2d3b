"""Summary of all MoE layers' metrics for the log."""

from __future__ import annotations

from collections.abc import Mapping

from model.layers.moe.metrics import ExpertMetrics


def summary(layers: Mapping[str, ExpertMetrics]) -> dict[str, float]:
    """The worst layer's load and drops, the mean of the rest; nothing for a model without MoE layers."""
    if not layers:
        return {}
    measured = list(layers.values())
    figures = {
        "max_over_mean_load": max(layer.max_over_mean_load for layer in measured),
        "load_entropy": min(layer.load_entropy for layer in measured),
        "dropped_share": max(layer.dropped_share for layer in measured),
        "router_logit_rms": sum(layer.logit_rms for layer in measured) / len(measured),
    }
    for name in sorted({name for layer in measured for name in layer.losses}):
        losses = [layer.losses[name] for layer in measured if name in layer.losses]
        figures[f"{name}_loss"] = sum(losses) / len(losses)
    return figures
