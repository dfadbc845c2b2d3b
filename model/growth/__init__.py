"""Growth: a trained model becomes a larger one, with the same outputs where the method allows.

    growth = upcycle_slices(config, n_copies=4, n_slices=4)     # or any other function of this package
    child = Transformer(growth.config)
    child.load_state_dict(growth.state(parent.state_dict()))

Dense to experts is in `upcycling.py`, more experts in `expert_count.py`, more layers in `depth.py`, moments of the
optimiser in `optimiser.py`; `derivation.py` describes a growth. None of these reads files or tokenizers.
`python -m model.growth` grows whole model folders (`folder.py`), see docs/reference/growth.md.
"""

from __future__ import annotations

from model.growth.depth import insert_identity_blocks, stack_layers
from model.growth.derivation import Growth, Moments
from model.growth.expert_count import duplicate_experts, split_experts
from model.growth.optimiser import named_moments, set_named_moments
from model.growth.upcycling import upcycle_copies, upcycle_halves, upcycle_slices

__all__ = [
    "Growth",
    "Moments",
    "duplicate_experts",
    "insert_identity_blocks",
    "named_moments",
    "set_named_moments",
    "split_experts",
    "stack_layers",
    "upcycle_copies",
    "upcycle_halves",
    "upcycle_slices",
]
