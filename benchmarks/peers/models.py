"""The models that sides are compared on, and where their files lie. Does not import torch.

Weights are rounded to bf16 once, so that every format of 16 bits or more holds the same numbers. The files of a model are
made by `drivers/make_models.py` and kept; their folder's name holds a hash of all that decides their content.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from model.config import ModelConfig, MoEConfig
from model.home import home_folder

LAYOUT = 1  # of the files in a model's folder; another one makes them again
SEED = 20_261_125
SMOLLM2 = "smollm2-135m"


@dataclass(frozen=True)
class PeerModel:
    """`folder` has `hf/` for everyone but llama.cpp and its fork, which read `f16.gguf`, `bf16.gguf` and `q8_0.gguf`.

    In `packed/` this stack keeps what it has packed.
    """

    name: str
    config: ModelConfig
    folder: Path
    is_random: bool

    @property
    def hf(self) -> Path:
        return self.folder / "hf"

    @property
    def packed(self) -> Path:
        return self.folder / "packed"

    def gguf(self, weights: str) -> Path:
        return self.folder / f"{weights}.gguf"


def peers_home() -> Path:
    """`HOME/peers`; HOME as `home_folder` has it."""
    return home_folder().resolve() / "peers"


def qwen3_moe(
    name: str, *, d_model: int, n_layers: int, n_heads: int, n_kv_heads: int, vocab_size: int, d_expert: int
) -> ModelConfig:
    """A decoder as Qwen3-MoE has it: 32 experts of which 4 are used, normalised, norms on queries and keys, tied head."""
    moe = MoEConfig(d_model=d_model, d_expert=d_expert, n_experts=32, top_k=4)
    return ModelConfig(
        name=name,
        vocab_size=vocab_size,
        d_model=d_model,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        d_head=64,
        d_ff=d_expert * 4,
        max_context=2048,
        rope_theta=1_000_000.0,
        norm_eps=1e-6,
        qk_norm="head",
        moe=moe,
    )


QWEN3_MOE_186M = qwen3_moe(  # 186M parameters, 54M of them active
    "qwen3-moe-186m", d_model=512, n_layers=6, n_heads=16, n_kv_heads=8, vocab_size=49_152, d_expert=512
)
QWEN3_MOE_22M = qwen3_moe(  # 22M parameters, 6M of them active
    "qwen3-moe-22m", d_model=256, n_layers=6, n_heads=4, n_kv_heads=2, vocab_size=8_192, d_expert=128
)


def random_model(config: ModelConfig, home: Path) -> PeerModel:
    return PeerModel(config.name, config, _folder(home, config, "random"), is_random=True)


def smollm2(home: Path) -> PeerModel:
    from model.presets import PRESETS

    config = PRESETS["smollm2"]
    return PeerModel(
        SMOLLM2, config, _folder(home, config, "SmolLM2-135M-Instruct.Q4_1.gguf"), is_random=False
    )


def _folder(home: Path, config: ModelConfig, weights: str) -> Path:
    content = json.dumps([LAYOUT, SEED, weights, config.to_dict()], sort_keys=True)
    return home / "models" / f"{config.name}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"
