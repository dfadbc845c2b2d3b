"""Named models of the stack. Does not import torch."""

from __future__ import annotations

import json
from pathlib import Path

from model.config import ConfigError, ModelConfig, MoEConfig

_SMOLLM2 = ModelConfig(
    name="smollm2",
    vocab_size=49_152,
    d_model=576,
    n_layers=30,
    n_heads=9,
    n_kv_heads=3,
    d_head=64,
    d_ff=1536,
    max_context=8192,
    rope_theta=100_000.0,
)

PRESETS: dict[str, ModelConfig] = {
    # Random weights over bytes, for tests of everything but a model's answers.
    "tiny": ModelConfig(
        name="tiny",
        vocab_size=261,
        d_model=64,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        d_head=16,
        d_ff=128,
        max_context=512,
        tie_embeddings=False,
        moe=MoEConfig(d_model=64, d_expert=32, n_experts=8, top_k=2, n_shared=1),
    ),
    "smollm2": _SMOLLM2,  # SmolLM2-135M-Instruct, dense
}


def named_config(name_or_file: str) -> ModelConfig:
    """A preset, or the configuration in a JSON file, as of a model folder.

    Raises ConfigError where there is neither, or the file holds no model.
    """
    if name_or_file in PRESETS:
        return PRESETS[name_or_file]
    try:
        values = json.loads(Path(name_or_file).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{name_or_file!r} is neither a preset ({', '.join(PRESETS)}) nor a readable file "
            f"({error.strerror}): give one of them"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{name_or_file} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{name_or_file} holds no model configuration: it must be a JSON object")
    return ModelConfig.from_dict(values.get("model", values))
