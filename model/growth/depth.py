"""Grow the number of layers by repeating or inserting layers.

- identity blocks: copies whose output projections are zero, so that they add nothing until they are trained
  (LLaMA Pro, arXiv:2401.02415); outputs stay the same.
- stacked layers: copies as they are, in a given order (SOLAR's depth up-scaling, arXiv:2312.15166; G_stack,
  arXiv:2405.15319); outputs change.

A new layer has its own weights, also where its source shares them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from model.config import ConfigError, ModelConfig
from model.growth.derivation import Copied, Growth
from model.growth.names import shapes_of
from model.layers.sharing import SHARED_PARTS, owner

OUTPUTS = ("w_o", "b_o", "w_down", "b_down")  # a block's output is linear in these


@dataclass(frozen=True)
class _Layer:
    """A child's layer: a copy of the parent's layer `source`."""

    source: int
    is_new: bool  # not a layer of the parent: it has its own weights


def insert_identity_blocks(config: ModelConfig, after: Sequence[int]) -> Growth:
    """Insert a new block, a copy of its predecessor with zero output projections, after each of the layers `after`.

    Preserves the function. Raises ConfigError for a layer that the parent does not have or that is named twice.
    """
    if sorted(set(after)) != sorted(after) or not all(0 <= layer < config.n_layers for layer in after):
        raise ConfigError(
            f"identity blocks need different layers from 0 to {config.n_layers - 1}, not {list(after)}"
        )
    layers: list[_Layer] = []
    for layer in range(config.n_layers):
        layers.append(_Layer(layer, is_new=False))
        if layer in after:
            layers.append(_Layer(layer, is_new=True))
    return _deepened(config, layers, is_identity=True)


def stack_layers(config: ModelConfig, sources: Sequence[int]) -> Growth:
    """Stack layers: layer i of the child is a copy of the parent's layer `sources[i]`; each must occur.

    `list(range(n)) * 2` is G_stack. Does not preserve the function. A layer's first occurrence keeps its moments. Raises
    ConfigError where a layer is left out, or where the last layer of a model with MTP modules is not the parent's last.
    """
    if set(sources) != set(range(config.n_layers)):
        raise ConfigError(f"a stack must have each of the layers 0 to {config.n_layers - 1} at least once")
    if config.n_ahead and sources[-1] != config.n_layers - 1:
        raise ConfigError("MTP modules read the parent's last layer: end the stack with it")
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
    """Copies of weights that the source shares with another layer, for the new layer alone."""
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
