"""Head width and number of key/value heads where a family implies them. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from model.config import ModelConfig
from model.hf.config.fields import Ours, Theirs, whole
from model.hf.errors import UnsupportedModel


@dataclass(frozen=True)
class HeadWidth:
    """Head width: `head_dim`, or if it is missing the hidden size over the heads; `is_free` allows other widths."""

    is_free: bool = True

    def read(self, theirs: Theirs, ours: Ours) -> None:
        implied = ours["d_model"] // max(ours["n_heads"], 1)
        given = theirs.get("head_dim")
        width = None if given is None else whole("head_dim", given)
        if not self.is_free and width not in (None, implied):
            raise UnsupportedModel(
                f"head_dim = {width} is not supported: this family's heads are {implied} wide"
            )
        ours["d_head"] = implied if width is None else width

    def write(self, config: ModelConfig, theirs: dict[str, Any]) -> None:
        if self.is_free:
            theirs["head_dim"] = config.d_head


@dataclass(frozen=True)
class AllHeads:
    """MLA's rule: each head has its own keys and values, so `num_key_value_heads` must be the number of heads."""

    def read(self, theirs: Theirs, ours: Ours) -> None:
        if ours["n_kv_heads"] != ours["n_heads"]:
            raise UnsupportedModel(
                f"num_key_value_heads = {ours['n_kv_heads']} is not supported: with MLA it must equal "
                f"num_attention_heads ({ours['n_heads']})"
            )

    def write(self, config: ModelConfig, theirs: dict[str, Any]) -> None:
        theirs["num_key_value_heads"] = config.n_heads
