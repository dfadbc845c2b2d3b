"""Shapes of the stack's models, as frozen dataclasses.

Knows nothing of tensors: importing this module does not import torch, so that web processes, the judge's
control side and tests may read shapes cheaply.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Gate = Literal["softmax", "sigmoid"]


class ConfigError(ValueError):
    """A shape that no model can have; the message names the field and the rule."""


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)


@dataclass(frozen=True)
class MoEConfig:
    """One Mixture-of-Experts layer: `n_shared` experts see every token, `top_k` of `n_experts` are routed to.

    The shared experts are merged into one feed-forward of width `n_shared * d_expert`.
    """

    d_model: int
    d_expert: int
    n_experts: int
    top_k: int
    n_shared: int = 0
    gate: Gate = "softmax"
    normalise_top_k: bool = True  # the chosen weights of a token sum to one
    bias_balancing: bool = False  # adds the buffer `router.bias`, see model/layers/router.py
    routed_scale: float = 1.0  # factor on the routed experts' sum

    def __post_init__(self) -> None:
        for field in ("d_model", "d_expert", "n_experts", "top_k"):
            _require(getattr(self, field) >= 1, f"MoEConfig.{field} must be at least 1")
        _require(self.n_shared >= 0, "MoEConfig.n_shared must not be negative")
        _require(self.top_k <= self.n_experts, "MoEConfig.top_k must not exceed n_experts")
        _require(self.gate in get_args(Gate), f"MoEConfig.gate must be one of {', '.join(get_args(Gate))}")

    @property
    def d_shared(self) -> int:
        """Width of the merged shared experts; 0 where there are none."""
        return self.n_shared * self.d_expert

    @property
    def total_parameters(self) -> int:
        per_width = 3 * self.d_model
        return self.n_experts * (self.d_model + per_width * self.d_expert) + per_width * self.d_shared

    @property
    def active_parameters(self) -> int:
        """Parameters that one token touches: the whole router, the shared experts and its top-k."""
        per_width = 3 * self.d_model
        return self.n_experts * self.d_model + per_width * (self.top_k * self.d_expert + self.d_shared)


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer with Llama's conventions; feed-forwards are dense or MoE.

    Layers before `first_moe_layer` have a dense feed-forward of width `d_ff`; the others are MoE where `moe`
    is given. All sizes count elements; `max_context` counts tokens, prompt and completion together.
    """

    name: str
    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_ff: int
    max_context: int
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    tie_embeddings: bool = True
    moe: MoEConfig | None = None
    first_moe_layer: int = 0

    def __post_init__(self) -> None:
        sizes = (
            "vocab_size",
            "d_model",
            "n_layers",
            "n_heads",
            "n_kv_heads",
            "d_head",
            "d_ff",
            "max_context",
        )
        for field in sizes:
            _require(getattr(self, field) >= 1, f"ModelConfig.{field} must be at least 1")
        _require(self.n_heads % self.n_kv_heads == 0, "ModelConfig.n_heads must be a multiple of n_kv_heads")
        _require(self.d_head % 2 == 0, "ModelConfig.d_head must be even: rotary turns pairs")
        _require(self.first_moe_layer >= 0, "ModelConfig.first_moe_layer must not be negative")
        if self.moe is not None:
            _require(self.moe.d_model == self.d_model, "ModelConfig.moe.d_model must equal d_model")

    def is_moe_layer(self, layer: int) -> bool:
        return self.moe is not None and layer >= self.first_moe_layer

    @property
    def n_moe_layers(self) -> int:
        return sum(self.is_moe_layer(layer) for layer in range(self.n_layers))

    @property
    def total_parameters(self) -> int:
        per_layer = self.moe.total_parameters if self.moe else 0
        return self._outside_moe + self.n_moe_layers * per_layer

    @property
    def active_parameters(self) -> int:
        """Parameters that one token's forward pass multiplies with; the embedding counts once when tied."""
        per_layer = self.moe.active_parameters if self.moe else 0
        return self._outside_moe + self.n_moe_layers * per_layer

    @property
    def _outside_moe(self) -> int:
        attention = 2 * self.d_model * self.d_head * (self.n_heads + self.n_kv_heads)
        norms = (2 * self.n_layers + 1) * self.d_model
        dense = (self.n_layers - self.n_moe_layers) * 3 * self.d_model * self.d_ff
        embeddings = self.vocab_size * self.d_model * (1 if self.tie_embeddings else 2)
        return self.n_layers * attention + norms + dense + embeddings

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """The inverse of `to_dict`. Raises ConfigError for unknown or missing fields."""
        moe = values.get("moe")
        try:
            return cls(**{**values, "moe": MoEConfig(**moe) if moe is not None else None})
        except TypeError as error:
            raise ConfigError(f"not a model configuration: {error}") from error


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
    # Random weights over bytes: for tests of everything around a model. Its answers mean nothing.
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
