"""A model shape of about a given number of parameters, for planning before a model is designed.

Proportions are those of large open MoE models (DeepSeek-V3, arXiv:2412.19437; Kimi K2, arXiv:2507.20534): 8 of 256
fine-grained experts and one shared, grouped-query attention with heads of 128. All layers are MoE and their number is
a multiple of 8, so that pipelines are even. For 1e12 this gives d 7168, 64 layers, experts of width 2816. Does not
import torch.
"""

from __future__ import annotations

import math

from model.config import ConfigError, ModelConfig, MoEConfig

VOCABULARY = 131_072
MAX_CONTEXT = 131_072
# Least number of parameters of a row: d_model, layers, heads, key/value heads, experts, chosen experts, and the divisor
# of an expert's width.
_ROWS = (
    (5e11, 7168, 64, 64, 8, 256, 8, 64),
    (1e11, 5120, 48, 40, 8, 256, 8, 16),
    (2e10, 4096, 32, 32, 8, 128, 8, 16),
    (4e9, 2560, 24, 20, 4, 128, 8, 8),
    (1e9, 1536, 16, 12, 4, 64, 4, 8),
)


def model_of(parameters: float) -> ModelConfig:
    """A shape whose total is within 3 % of `parameters`. Raises ConfigError below 1e9 and for non-finite numbers."""
    if not math.isfinite(parameters):
        raise ConfigError(f"there is no shape for {parameters} parameters: give a number of at least 1e9")
    row = next((row for row in _ROWS if parameters >= row[0]), None)
    if row is None:
        raise ConfigError(
            f"there is no shape for {parameters:.3g} parameters: give at least 1e9, or use --config"
        )
    _, d_model, n_layers, n_heads, n_kv_heads, n_experts, top_k, multiple = row

    def shape(d_expert: int) -> ModelConfig:
        return ModelConfig(
            name=f"moe-{parameters:.3g}",
            vocab_size=VOCABULARY,
            d_model=d_model,
            n_layers=n_layers,
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            d_head=128,
            d_ff=4 * d_model,
            max_context=MAX_CONTEXT,
            tie_embeddings=False,
            moe=MoEConfig(
                d_model, d_expert, n_experts, top_k, n_shared=1, gate="sigmoid", bias_balancing=True
            ),
        )

    per_width = n_layers * (n_experts + 1) * 3 * d_model
    rest = shape(1).total_parameters - per_width
    return shape(max(round((parameters - rest) / per_width / multiple), 1) * multiple)
