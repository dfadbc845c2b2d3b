"""Growth: a trained model becomes a larger one, with the same outputs where the method allows.

    growth = upcycle_slices(config, n_copies=4, n_slices=4)     # or any other function of this package
    child = Transformer(growth.config)
    child.load_state_dict(growth.state(parent.state_dict()))

Dense to experts is in `upcycling.py`, more experts in `expert_count.py`, more layers in `depth.py`, moments of the
optimiser in `optimiser.py`; `derivation.py` describes a growth. None of these reads files or tokenizers.
`python -m model.growth` grows whole model folders (`folder.py`), see docs/reference/growth.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from model.config import ModelConfig
from model.growth.depth import insert_identity_blocks, stack_layers
from model.growth.derivation import Growth, Moments
from model.growth.expert_count import duplicate_experts, split_experts
from model.growth.optimiser import named_moments, set_named_moments
from model.growth.upcycling import upcycle_copies, upcycle_halves, upcycle_slices

__all__ = [
    "Growth",
    "Moments",
    "duplicate_experts",
    "grow_experts",
    "insert_identity_blocks",
    "named_moments",
    "set_named_moments",
    "split_experts",
    "stack_layers",
    "upcycle_copies",
    "upcycle_halves",
    "upcycle_slices",
]


def grow_experts(
    config: ModelConfig, state: Mapping[str, Tensor], *, n_experts: int = 7, top_k: int = 2, seed: int = 0
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Configuration and state dict of a dense model upcycled by `upcycle_halves`, which is exact.

    Raises ConfigError where the parent is not dense or its d_ff is odd.
    """
    growth = upcycle_halves(config, n_experts=n_experts, top_k=top_k, seed=seed)
    return growth.config, growth.state(state)
