"""Text of a training run's events, one line each. Does not import torch."""

from __future__ import annotations

from model.training.report.events import Evaluated, Event, Noticed, Saved, Started, Stepped


def describe(event: Event) -> str:
    """Text of an event, one line without its newline."""
    if isinstance(event, Started):
        share = event.active_parameters / event.parameters
        precision, reason = event.machine["precision"], event.precision_reason
        return (
            f"{'training' if event.step == 0 else f'resuming after step {event.step:,}'}: "
            f"{amount(event.parameters)} parameters, {amount(event.active_parameters)} active ({share:.0%}), "
            f"{event.machine['device']}, {precision} at most {event.peak_flops / 1e9:,.0f} GFLOP/s"
            f"{'' if reason is None else f'; precision {precision}: {reason}'}"
        )
    if isinstance(event, Stepped):
        return (
            f"step {event.step:,}  {'  '.join(f'{name} {value}' for name, value in figures(event).items())}"
        )
    if isinstance(event, Evaluated):
        whose = "averaged weights" if event.is_average else "weights"
        kinds = ", ".join(f"{kind} {loss:.4f}" for kind, loss in event.losses.items())
        return f"step {event.step:,}  held-out loss {event.loss:.4f} ({whose}; {kinds}; {event.targets:,} targets)"
    if isinstance(event, Saved):
        return f"step {event.step:,}  saved {event.folder}"
    if isinstance(event, Noticed):
        return f"step {event.step:,}  note: {event.message}"
    return f"{event.reason}: {event.step:,} steps, {event.tokens:,} tokens"


def figures(event: Stepped) -> dict[str, str]:
    """Figures of a step by name, as shown next to its number."""
    shown = {
        "loss": f"{event.loss:.4f}",
        "lr": f"{event.learning_rate:.2e}",
        "norm": f"{event.gradient_norm:.2f}" + (" (overflow, left out)" if event.is_skipped else ""),
        "tok/s": f"{event.tokens_per_s:,.0f}",
        "MFU": f"{event.mfu:.1%}",
    }
    if "max_over_mean_load" in event.metrics:
        shown["expert load"] = f"{event.metrics['max_over_mean_load']:.2f}x"
    if event.memory_bytes is not None:
        shown["memory"] = f"{event.memory_bytes / 2**30:.2f} GiB"
    if event.stage is not None:
        shown["stage"] = event.stage
    shown["done"] = f"{min(event.progress, 1):.0%}"
    if event.eta_s is not None:
        shown["ETA"] = duration(event.eta_s)
    return shown


def amount(number: float) -> str:
    """12345678 as 12.3M."""
    for limit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}{letter}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """3725 as 1:02:05."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
