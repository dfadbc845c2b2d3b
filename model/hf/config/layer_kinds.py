"""Layers with experts and layers with a sliding window: `config.json` to and from a `ModelConfig`.

Does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from model.config import MOST_LAYERS, ModelConfig
from model.hf.config.fields import MOST_CONTEXT, Ours, Theirs, shown, whole
from model.hf.errors import UnsupportedModel

SLIDING, FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True)
class SparseStep:
    """Qwen's rule: every `decoder_sparse_step`-th layer has experts, except those in `mlp_only_layers`.

    It is written as an equivalent step of 1 with all dense layers listed.
    """

    def read(self, theirs: Theirs, ours: Ours) -> None:
        layers = range(ours["n_layers"])
        step = whole("decoder_sparse_step", theirs.get("decoder_sparse_step", 1))
        dense = theirs.get("mlp_only_layers") or []
        if not isinstance(dense, list) or any(
            type(layer) is not int or layer not in layers for layer in dense
        ):
            raise UnsupportedModel(
                f"mlp_only_layers must be a list of layers below {len(layers)}, not {shown(dense)}"
            )
        ours["dense_layers"] = tuple(layer for layer in layers if layer in dense or (layer + 1) % step)

    def write(self, config: ModelConfig, theirs: dict[str, Any]) -> None:
        theirs["decoder_sparse_step"] = 1
        theirs["mlp_only_layers"] = [
            layer for layer in range(config.n_layers) if not config.is_moe_layer(layer)
        ]


@dataclass(frozen=True)
class LeadingDense:
    """DeepSeek's rule: the first `first_k_dense_replace` layers are dense."""

    default: int  # where it is missing

    def read(self, theirs: Theirs, ours: Ours) -> None:
        name = "first_k_dense_replace"
        ours["first_moe_layer"] = whole(name, theirs.get(name, self.default), least=0, most=MOST_LAYERS)

    def write(self, config: ModelConfig, theirs: dict[str, Any]) -> None:
        layers = range(config.n_layers)
        theirs["first_k_dense_replace"] = next(
            (layer for layer in layers if config.is_moe_layer(layer)), config.n_layers
        )


@dataclass(frozen=True)
class OneWindow:
    """One `sliding_window` for all layers (Mixtral), if the family's `switch` is true where it has one (Qwen3-MoE)."""

    switch: str | None = None

    def read(self, theirs: Theirs, ours: Ours) -> None:
        is_on = self.switch is None or bool(theirs.get(self.switch))
        window = _window(theirs, is_on=is_on)
        ours["sliding_window"] = window if is_on else None

    def write(self, config: ModelConfig, theirs: dict[str, Any]) -> None:
        theirs["sliding_window"] = config.sliding_window
        if self.switch is not None:
            theirs[self.switch] = config.sliding_window is not None


@dataclass(frozen=True)
class WindowPerLayer:
    """Qwen2-MoE's rule: `layer_types` lists the layers with the window, if `use_sliding_window` is true.

    Files without `layer_types` mean transformers' default: each second layer from the first on, below
    `max_window_layers` (28 where missing).
    """

    def read(self, theirs: Theirs, ours: Ours) -> None:
        n_layers, is_on = ours["n_layers"], bool(theirs.get("use_sliding_window"))
        name = "max_window_layers"
        most = whole(name, theirs.get(name, 28), least=0, most=MOST_LAYERS)
        kinds = theirs.get("layer_types")
        if kinds is None:
            limit = most if is_on else 0
            kinds = [SLIDING if layer % 2 == 0 and layer < limit else FULL for layer in range(n_layers)]
        if (
            not isinstance(kinds, list)
            or len(kinds) != n_layers
            or any(kind not in (SLIDING, FULL) for kind in kinds)
        ):
            raise UnsupportedModel(
                f"layer_types must be {n_layers} times {SLIDING!r} or {FULL!r}, not {shown(kinds)}"
            )
        if not is_on and SLIDING in kinds:
            raise UnsupportedModel(f"layer_types has {SLIDING!r} while use_sliding_window is false")
        window = _window(theirs, is_on=SLIDING in kinds)
        ours["sliding_window"] = window if SLIDING in kinds else None
        ours["full_attention_layers"] = tuple(
            layer for layer in range(n_layers) if SLIDING in kinds and kinds[layer] == FULL
        )

    def write(self, config: ModelConfig, theirs: dict[str, Any]) -> None:
        windows = [config.window(layer) for layer in range(config.n_layers)]
        theirs["use_sliding_window"] = any(window is not None for window in windows)
        theirs["sliding_window"] = config.sliding_window
        theirs["max_window_layers"] = config.n_layers
        theirs["layer_types"] = [FULL if window is None else SLIDING for window in windows]


def _window(theirs: Theirs, *, is_on: bool) -> int | None:
    """Value of `sliding_window`; transformers writes 0 if it is off."""
    window = theirs.get("sliding_window")
    return None if window is None else whole("sliding_window", window, least=int(is_on), most=MOST_CONTEXT)
