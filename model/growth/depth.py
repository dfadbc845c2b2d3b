"""Grow the number of layers by repeating or inserting layers.

- identity blocks: copies whose output projections are zero, so that they add nothing until they are trained
  (LLaMA Pro, arXiv:2401.02415); the function stays.
- stacked layers: copies as they are, in a given order (SOLAR's depth up-scaling, arXiv:2312.15166; G_stack,
  arXiv:2405.15319); the function does not stay.

A layer that is new has weights of its own, also where its source shares them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from model.config import ConfigError, ModelConfig
from model.growth.derivation import Copied, Growth
from model.growth.names import shapes_of
from model.layers.sharing import SHARED_PARTS, owner

OUTPUTS = ("w_o", "b_o", "w_down", "b_down")  # what a block adds to the residual stream is linear in these


@dataclass(frozen=True)
class _Layer:
    """A child's layer: a copy of the parent's layer `source`."""

    source: int
    is_new: bool  # no place in the parent: its weights are its own


def insert_identity_blocks(config: ModelConfig, after: Sequence[int]) -> Growth:
    """A new block, a copy of its predecessor with zero output projections, after each of the layers `after`.

    Preserves the function. Raises ConfigError for a layer that the parent does not have or that is named twice.
    """
    if sorted(set(after)) != sorted(after) or not all(0 <= layer < config.n_layers for layer in after):
        raise ConfigError(
            f"identity blocks go after different layers from 0 to {config.n_layers - 1}, not after {list(after)}"
        )
    layers: list[_Layer] = []
    for layer in range(config.n_layers):
        layers.append(_Layer(layer, is_new=False))
        if layer in after:
            layers.append(_Layer(layer, is_new=True))
    return _deepened(config, layers, is_identity=True)


def stack_layers(config: ModelConfig, sources: Sequence[int]) -> Growth:
    """Layer i of the child is a copy of the parent's layer `sources[i]`; each must occur. `list(range(n)) * 2` is G_stack.

    Does not preserve the function. Moments come along for a layer's first occurrence. Raises ConfigError where a layer
    is left out, or where the last layer of a model with multi-token prediction is not the parent's last.
    """
    if set(sources) != set(range(config.n_layers)):
        raise ConfigError(f"a stack has each of the layers 0 to {config.n_layers - 1} at least once")
    if config.n_ahead and sources[-1] != config.n_layers - 1:
        raise ConfigError("multi-token prediction continues the parent's last layer: end the stack with it")
    layers = [_Layer(source, is_new=source in sources[:i]) for i, source in enumerate(sources)]
    return _deepened(config, layers, is_identity=False)


def _deepened(config: ModelConfig, layers: list[_Layer], *, is_identity: bool) -> Growth:
    names = list(shapes_of(config))
    sources = {name: Copied(name) for name in names if not name.startswith("layers.")}
    for place, layer in enumerate(layers):
        for name in names:
            if name.startswith(f"layers.{layer.source}."):
                leaf = name.split(".", 2)[2]
                sources[f"layers.{place}.{leaf}"] = _source(name, layer, is_identity)
        if layer.is_new:
            sources |= _own_copies(config, names, place, layer, is_identity)
    child = dataclasses.replace(_child_config(config, layers), name=f"{config.name}-{len(layers)}l")
    is_parent = [layer.source for layer in layers] == list(range(config.n_layers))
    return Growth(child, sources, preserves=is_identity or is_parent)


def _source(name: str, layer: _Layer, is_identity: bool) -> Copied:
    is_zero = is_identity and layer.is_new and name.rpartition(".")[2] in OUTPUTS
    return Copied(name, factor=0.0 if is_zero else 1.0, is_new=layer.is_new)


def _own_copies(
    config: ModelConfig, names: list[str], place: int, layer: _Layer, is_identity: bool
) -> dict[str, Copied]:
    """What the source uses of another layer: the new layer has it for itself."""
    copies = {}
    for part in SHARED_PARTS:
        owned_by = owner(config, part, layer.source)
        prefix = f"layers.{owned_by}.{part}."
        for name in names:
            if owned_by != layer.source and name.startswith(prefix):
                copies[f"layers.{place}.{part}.{name.removeprefix(prefix)}"] = _source(
                    name, layer, is_identity
                )
    return copies


def _child_config(config: ModelConfig, layers: list[_Layer]) -> ModelConfig:
    place_of = {layer.source: place for place, layer in enumerate(layers) if not layer.is_new}

    def owners(of_parent: tuple[int, ...]) -> tuple[int, ...]:
        if not of_parent:
            return ()
        return tuple(
            place if layer.is_new else place_of[of_parent[layer.source]] for place, layer in enumerate(layers)
        )

    def places(wanted: list[bool]) -> tuple[int, ...]:
        return tuple(place for place, layer in enumerate(layers) if wanted[layer.source])

    every = range(config.n_layers)
    return dataclasses.replace(
        config,
        n_layers=len(layers),
        first_moe_layer=0,
        dense_layers=places([config.moe is not None and not config.is_moe_layer(layer) for layer in every]),
        full_attention_layers=places([layer in config.full_attention_layers for layer in every]),
        attention_owners=owners(config.attention_owners),
        ffn_owners=owners(config.ffn_owners),
    )
