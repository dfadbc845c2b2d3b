"""The `[curriculum]` table of a run's file. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model.config import ConfigError
from model.data.batches.curriculum import Curriculum, LengthWarmup, Stage, one_mixture, three_stages
from model.training.config.tables import convert, nearest, read_table

PLANS = ("one_stage", "three_stages", "mixed_three_stages")
ENDLESS = 1 << 60  # tokens of a plan whose only stage does not depend on how long it is
CURRICULUM_KEYS = ("plan", "stages", "mixture", "replay", "warmup", "total_tokens")
STAGES = "stages"  # the plan of a table that lists them
ONLY_OF = {"mixture": ("one_stage",), "replay": ("three_stages", "mixed_three_stages")}


def curriculum_from_table(
    table: Mapping[str, Any], *, total_tokens: int | None, sequence_length: int, sources: tuple[str, ...]
) -> Curriculum:
    """Build the curriculum of a run's table: `plan` names one of `PLANS`, or `stages` lists the stages.

    `one_stage`, the default, draws from all sources alike or as `mixture` says; `three_stages` is general, domain and
    instruction data one after the other; `mixed_three_stages` its baseline of equal tokens. All but `one_stage` need
    to know how long the run is: `total_tokens`, or the table's own. Raises ConfigError.
    """
    where = "[curriculum]"
    plan = _plan(table)
    warmup = read_table(LengthWarmup, table["warmup"], f"{where} warmup") if "warmup" in table else None
    given = convert(int | None, table.get("total_tokens"), f"{where} total_tokens")
    if plan == "one_stage":
        mixture = convert(
            dict[str, float], table.get("mixture", dict.fromkeys(sources, 1)), f"{where} mixture"
        )
        return Curriculum((Stage("all", 1.0, mixture, sequence_length),), ENDLESS, warmup)
    total = total_tokens if given is None else given
    if total is None:
        raise ConfigError(f"{where} needs total_tokens where [budget] gives neither tokens nor steps")
    if plan == STAGES:
        return Curriculum(_stages(table[STAGES], sequence_length), total, warmup)
    replay = convert(float, table.get("replay", 0.1), f"{where} replay")
    stages = three_stages(total, sequence_length, replay=replay, warmup=warmup)
    return stages if plan == "three_stages" else one_mixture(stages)


def listed_lengths(table: Mapping[str, Any]) -> list[int]:
    """The sequence lengths that listed stages set; none for other plans. Raises ConfigError."""
    where = "[curriculum.stages {}] sequence_length"
    return [
        convert(int, stage["sequence_length"], where.format(number))
        for number, stage in enumerate(_stage_tables(table.get(STAGES, [])), 1)
        if "sequence_length" in stage
    ]


def _plan(table: Mapping[str, Any]) -> str:
    """The table's plan. Raises ConfigError for keys that this plan would not read."""
    where = "[curriculum]"
    has_stages = STAGES in table
    plan = table.get("plan", STAGES if has_stages else "one_stage")
    if plan == STAGES and not has_stages:
        raise ConfigError(f"{where} plan 'stages' needs the list [[curriculum.stages]]")
    if plan not in (*PLANS, STAGES):
        raise ConfigError(f"{where} plan cannot be {plan!r}{nearest(str(plan), PLANS)}")
    if has_stages and plan != STAGES:
        raise ConfigError(f"{where} lists its own stages: leave plan out")
    for key, plans in ONLY_OF.items():
        if key in table and plan not in plans:
            shown = "a list of stages" if plan == STAGES else f"plan {plan!r}"
            raise ConfigError(f"{where} {key} is for {' and '.join(plans)}, not for {shown}: leave it out")
    return str(plan)


def _stages(tables: Any, sequence_length: int) -> tuple[Stage, ...]:
    return tuple(
        read_table(Stage, {"sequence_length": sequence_length, **stage}, f"[curriculum.stages {number}]")
        for number, stage in enumerate(_stage_tables(tables), 1)
    )


def _stage_tables(tables: Any) -> list[Mapping[str, Any]]:
    if not isinstance(tables, list) or not all(isinstance(table, Mapping) for table in tables):
        raise ConfigError("[[curriculum.stages]] must be a list of tables")
    return tables
