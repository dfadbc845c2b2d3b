"""Growth methods by name, with their options; an option that is not given has the function's own default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from model.config import ConfigError, ModelConfig
from model.growth.depth import insert_identity_blocks, stack_layers
from model.growth.derivation import Growth
from model.growth.expert_count import duplicate_experts, split_experts
from model.growth.upcycling import Routing, upcycle_copies, upcycle_halves, upcycle_slices

SHARED = ("top_k", "noise", "seed", *Routing.__annotations__)  # options of all upcycling methods


@dataclass(frozen=True)
class Method:
    """A growth method: `grow` takes a configuration and `options` by name."""

    name: str
    grow: Callable[..., Growth]
    options: tuple[str, ...]

    def on(self, config: ModelConfig, arguments: Mapping[str, Any]) -> Growth:
        """Make the growth of a model. Raises ConfigError for an unknown option, and as the method does."""
        for name in arguments:
            if name not in self.options:
                takes = ", ".join(map(option, self.options))
                raise ConfigError(f"{option(name)} is not an option of {self.name}, which takes {takes}")
        return self.grow(config, **arguments)


UPCYCLING = {
    "halves": Method("halves", upcycle_halves, ("n_experts", *SHARED)),
    "copies": Method("copies", upcycle_copies, ("n_experts", *SHARED)),
    "slices": Method("slices", upcycle_slices, ("n_copies", "n_slices", *SHARED)),
}
EXPERTS = {
    "split": Method("split", split_experts, ("factor",)),
    "duplicate": Method("duplicate", duplicate_experts, ("factor", "noise", "seed")),
}
DEPTH = {
    "identity": Method("identity", insert_identity_blocks, ("after",)),
    "stack": Method("stack", stack_layers, ("sources",)),
}


def option(name: str) -> str:
    """`n_experts` -> `--n-experts`."""
    return f"--{name.replace('_', '-')}"
