"""The `[model]` table of a run's file: a preset, a checkpoint, or all fields of a shape.

Does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from model.checkpoint import load_config
from model.config import ConfigError, ModelConfig
from model.presets import PRESETS
from model.training.config.tables import convert, nearest, read_table, require_known

FIELDS = tuple(name.name for name in fields(ModelConfig))
SOURCE = ("preset", "checkpoint", "moments")  # keys in addition to those fields
ANY_VOCABULARY = 1 << 16  # in place of the tokenizer's size until it is known


@dataclass(frozen=True)
class ModelTable:
    """`values` are fields of ModelConfig, over those of `preset` where one is named."""

    preset: str | None = None
    checkpoint: Path | None = None
    moments: bool = False  # AdamW's moments are loaded from `checkpoint` too
    values: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, table: Any, *, name: str) -> Self:
        """The table [model]. Raises ConfigError; the vocabulary may be left out and is then the tokenizer's."""
        if not isinstance(table, Mapping):
            raise ConfigError("[model] must be a table")
        require_known(table, (*SOURCE, *FIELDS), "[model]")
        preset, checkpoint = table.get("preset"), table.get("checkpoint")
        moments = convert(bool, table.get("moments", False), "[model] moments")
        values = {key: value for key, value in table.items() if key not in SOURCE}
        if preset is not None and preset not in PRESETS:
            raise ConfigError(f"[model] preset cannot be {preset!r}{nearest(str(preset), PRESETS)}")
        if checkpoint is not None:
            if values or preset is not None:
                raise ConfigError("[model] checkpoint has a shape already: leave the other keys out")
            return cls(checkpoint=convert(Path, checkpoint, "[model] checkpoint"), moments=moments)
        if moments:
            raise ConfigError("[model] moments come from a checkpoint: name one, or leave moments out")
        read = cls(preset=preset, values={"name": name, **values})
        read.shape(ANY_VOCABULARY)
        return read

    def shape(self, vocabulary: int) -> ModelConfig:
        """The model's shape for a tokenizer of `vocabulary` tokens.

        Raises ConfigError where the table's own vocabulary is smaller, and CheckpointError for a folder without model.
        """
        if self.checkpoint is not None:
            config, _ = load_config(self.checkpoint)
        else:
            merged = _merged(PRESETS[self.preset].to_dict() if self.preset else {}, self.values)
            if "vocab_size" not in self.values:
                merged["vocab_size"] = vocabulary
            moe, given = merged.get("moe"), self.values.get("moe", {})
            if isinstance(moe, dict) and isinstance(given, Mapping) and "d_model" in merged:
                moe["d_model"] = given.get("d_model", merged["d_model"])  # a preset's own is not asked for
            config = read_table(ModelConfig, merged, "[model]")
        if vocabulary != ANY_VOCABULARY and config.vocab_size < vocabulary:
            raise ConfigError(
                f"[model] has {config.vocab_size} tokens, the data's tokenizer {vocabulary}: leave vocab_size out, "
                "or use data of the model's own tokenizer"
            )
        return config


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on `base`, table by table."""
    merged = {key: value for key, value in base.items() if value is not None}
    for key, value in over.items():
        inner = merged.get(key)
        merged[key] = (
            _merged(inner if isinstance(inner, Mapping) else {}, value)
            if isinstance(value, Mapping)
            else value
        )
    return merged
