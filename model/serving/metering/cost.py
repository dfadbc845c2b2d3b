"""Split a step's time over its sequences by their relative work, from the model's shape alone.

The unit is one multiplication of one token with one weight. A sequence's work is that of its new tokens (weights of all
blocks, attention over the past, and the head where logits are needed) and its part in reading the weights once, which
costs the same in each step.
"""

from __future__ import annotations

from dataclasses import dataclass

from model.config import ModelConfig

PASS_TOKENS = 4  # reading the weights once costs as much as this many tokens; see docs/concepts/serving.md


@dataclass(frozen=True)
class StepCost:
    """Multiplications per token in the blocks, per key that a token attends to, and per row of logits."""

    per_token: int
    per_key: int
    per_logits: int

    @classmethod
    def of(cls, config: ModelConfig) -> StepCost:
        head = config.vocab_size * config.d_model
        outside = head if config.tie_embeddings else 2 * head
        if config.latent is None:
            per_key = 2 * config.n_heads * config.d_head
        else:
            per_key = config.n_heads * (2 * config.latent.kv_rank + config.latent.d_rope)
        return cls(config.active_parameters - outside, config.n_layers * per_key, head)

    def work(self, n_tokens: int, past: int, n_logits: int) -> int:
        """Work of a sequence with so many new tokens after its past; sliding windows are ignored."""
        n_keys = n_tokens * past + n_tokens * (n_tokens + 1) // 2
        return (n_tokens + PASS_TOKENS) * self.per_token + n_keys * self.per_key + n_logits * self.per_logits
