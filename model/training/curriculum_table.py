"""The table of a run's file that says in which order data is learnt. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model.config import ConfigError
from model.data.curriculum import Curriculum, LengthWarmup, Stage, one_mixture, three_stages
from model.training.tables import convert, nearest, read_table

PLANS = ("one_stage", "three_stages", "mixed_three_stages")
ENDLESS = 1 << 60  # tokens of a plan whose only stage does not depend on how long it is
CURRICULUM_KEYS = ("plan", "stages", "mixture", "replay", "warmup", "total_tokens")


def curriculum_from_table(
    table: Mapping[str, Any], *, total_tokens: int | None, sequence_length: int, sources: tuple[str, ...]
) -> Curriculum:
    """`plan` names one of `PLANS`, or `stages` lists them.

    `one_stage`, the default, draws from all sources alike or as `mixture` says; `three_stages` is general, domain and
    instruction data one after the other; `mixed_three_stages` its baseline of equal tokens. All but `one_stage` need
    to know how long the run is: `total_tokens`, or the table's own. Raises ConfigError.
    """
    where = "[curriculum]"
    warmup = read_table(LengthWarmup, table["warmup"], f"{where} warmup") if "warmup" in table else None
    plan = table.get("plan", "stages" if "stages" in table else "one_stage")
    if plan not in (*PLANS, "stages"):
        raise ConfigError(f"{where} plan cannot be {plan!r}{nearest(str(plan), PLANS)}")
    if plan == "one_stage":
        mixture = convert(
            dict[str, float], table.get("mixture", dict.fromkeys(sources, 1)), f"{where} mixture"
        )
        return Curriculum((Stage("all", 1.0, mixture, sequence_length),), ENDLESS, warmup)
    total = table.get("total_tokens", total_tokens)
    if total is None:
        raise ConfigError(f"{where} needs total_tokens where [budget] gives neither tokens nor steps")
    total = convert(int, total, f"{where} total_tokens")
    if "stages" in table:
        if plan != "stages":
            raise ConfigError(f"{where} has stages of its own: leave plan out")
        return Curriculum(_stages(table["stages"], sequence_length), total, warmup)
    replay = convert(float, table.get("replay", 0.1), f"{where} replay")
    stages = three_stages(total, sequence_length, replay=replay, warmup=warmup)
    return stages if plan == "three_stages" else one_mixture(stages)


def _stages(tables: Any, sequence_length: int) -> tuple[Stage, ...]:
    if not isinstance(tables, list):
        raise ConfigError("[[curriculum.stages]] must be a list of tables")
    return tuple(
        read_table(Stage, {"sequence_length": sequence_length, **stage}, f"[curriculum.stages {number + 1}]")
        for number, stage in enumerate(tables)
    )
