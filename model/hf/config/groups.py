"""Group-limited routing: DeepSeek's `config.json` to and from a `ModelConfig`. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from model.config import ModelConfig
from model.hf.config.fields import MOST_EXPERTS, Ours, Theirs, pick, put, whole
from model.hf.errors import UnsupportedModel

GREEDY, LIMITED = "greedy", "group_limited_greedy"


@dataclass(frozen=True)
class BestExpertGroups:
    """DeepSeek-V2's rule: `topk_method` switches groups on; a group's score is that of its best expert."""

    def read(self, theirs: Theirs, ours: Ours) -> None:
        method = theirs.get("topk_method") or GREEDY
        if method not in (GREEDY, LIMITED):
            raise UnsupportedModel(
                f"topk_method = {method!r} is not supported: only {GREEDY!r} and {LIMITED!r}"
            )
        if method == LIMITED:
            put(ours, "moe.n_groups", _count(theirs, "n_group"))
            put(ours, "moe.top_groups", _count(theirs, "topk_group"))
        put(ours, "moe.group_score", "max")

    def write(self, config: ModelConfig, theirs: dict[str, Any]) -> None:
        n_groups, top_groups = pick(config, "moe.n_groups"), pick(config, "moe.top_groups")
        theirs["topk_method"] = LIMITED if top_groups < n_groups else GREEDY
        theirs["n_group"], theirs["topk_group"] = n_groups, top_groups


@dataclass(frozen=True)
class TopTwoGroups:
    """DeepSeek-V3's rule: a group's score is the sum of its two best experts'."""

    def read(self, theirs: Theirs, ours: Ours) -> None:
        put(ours, "moe.n_groups", _count(theirs, "n_group"))
        put(ours, "moe.top_groups", _count(theirs, "topk_group"))
        put(ours, "moe.group_score", "top2")

    def write(self, config: ModelConfig, theirs: dict[str, Any]) -> None:
        theirs["n_group"] = pick(config, "moe.n_groups")
        theirs["topk_group"] = pick(config, "moe.top_groups")


def _count(theirs: Theirs, name: str) -> int:
    return whole(name, theirs.get(name), most=MOST_EXPERTS)
