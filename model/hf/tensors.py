"""Rename a family's weights to our names and back; stack experts and take them apart.

Shapes and names on our side are those of `Transformer.state_dict`, so that what is read here always fits the model.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from model.checkpoint import CheckpointError
from model.config import ModelConfig
from model.hf.errors import UnsupportedModel
from model.hf.families.family import EXPERT, Family
from model.hf.shards import FLOATS
from model.layers.unfilled import unfilled
from model.transformer import Transformer

HEAD = "lm_head.weight"
_RECOMPUTED = ".rotary_emb.inv_freq"  # stored by transformers before 4.32, a function of the configuration
_FUSED = ".mlp.experts.gate_up_proj"
_AHEAD = "ahead."  # our MTP modules; theirs are further layers
_THEIR_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_SHOWN = 5  # names in an error
_LOG = logging.getLogger("model.hf")


@dataclass(frozen=True)
class Slot:
    """Place of a tensor of theirs: the whole of one of ours, or one expert of the stack."""

    ours: str
    expert: int | None
    shape: torch.Size


@dataclass(frozen=True)
class Located:
    """Location of one of our tensors in files: its shape, its names there (one, or one per expert), and their dtype."""

    shape: torch.Size
    names: tuple[str, ...]
    dtype: torch.dtype


def our_shapes(config: ModelConfig) -> dict[str, torch.Size]:
    """Names and shapes of a model's state, without its memory."""
    with unfilled():
        return {name: tensor.shape for name, tensor in Transformer(config).state_dict().items()}


def slots(family: Family, shapes: Mapping[str, torch.Size]) -> dict[str, Slot]:
    """Their name of each tensor, in our order, and its place. Raises UnsupportedModel for a tensor without a name."""
    found: dict[str, Slot] = {}
    for ours, shape in shapes.items():
        theirs = family.their_name(ours)
        if EXPERT not in theirs:
            found[theirs] = Slot(ours, None, shape)
            continue
        for expert in range(shape[0]):
            found[theirs.replace(EXPERT, str(expert))] = Slot(ours, expert, shape[1:])
    return found


def take_apart(family: Family, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state under their names; experts are views of our stacks. Raises UnsupportedModel.

    MTP modules are left out with a warning in the log.
    """
    if any(name.startswith(_AHEAD) for name in state):
        _LOG.warning("MTP modules are used in training only and are left out")
        state = {name: tensor for name, tensor in state.items() if not name.startswith(_AHEAD)}
    places = slots(family, {name: tensor.shape for name, tensor in state.items()})
    return {
        theirs: state[slot.ours] if slot.expert is None else state[slot.ours][slot.expert]
        for theirs, slot in places.items()
    }


def names_to_read(family: Family, shapes: Mapping[str, torch.Size], stored: Iterable[str]) -> set[str]:
    """The stored tensors that a model of ours needs, before any of them is read.

    Layers after the last one are MTP modules, and are left out with a warning in the log. Raises
    CheckpointError where tensors are missing or unknown, UnsupportedModel where experts are stored fused.
    """
    places, names = slots(family, shapes), set(stored)
    ahead = {name for name in names if family.has_mtp_modules and _layer(name) >= _n_layers(shapes)}
    if ahead:
        _LOG.warning("MTP modules are left out: %s", _some(ahead))
    unknown = {
        name for name in names - places.keys() - ahead if name != HEAD and not name.endswith(_RECOMPUTED)
    }
    if any(_FUSED in name for name in unknown):
        raise UnsupportedModel("experts are stored fused: save the model with save_original_format=True")
    if unknown:
        raise CheckpointError(
            f"a {family.model_type} has no {_some(unknown)}: check that config.json belongs to the weights"
        )
    if missing := places.keys() - names:
        raise CheckpointError(f"the weights lack {_some(missing)}; fetch them again")
    return names & (places.keys() | {HEAD})


def put_together(
    family: Family,
    shapes: Mapping[str, torch.Size],
    tensors: Iterable[tuple[str, Tensor]],
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """Our state from their tensors in any order, each read once; in their dtype if `dtype` is None.

    `tensors` are those of `names_to_read`. The balancing bias of a router keeps its dtype: its steps are finer than
    bf16. Raises CheckpointError for tensors of another shape than config.json's, UnsupportedModel for quantised ones.
    """
    places = slots(family, shapes)
    state: dict[str, Tensor] = {}
    tied_head: Tensor | None = None
    for theirs, tensor in tensors:
        slot = places.get(theirs)
        if slot is None:
            tied_head = tensor
            continue
        _check(theirs, tensor, slot)
        _place(state, shapes, slot, tensor, dtype)
    if tied_head is not None:
        check_tied(tied_head, state["embedding"])
    return {name: state[name] for name in shapes}


def located(
    family: Family, shapes: Mapping[str, torch.Size], tensors: Iterable[tuple[str, Tensor]]
) -> dict[str, Located]:
    """The location of each of our tensors, in our order.

    `tensors` are those of `names_to_read`, in any order, of which only shapes and dtypes are read. Raises what
    `put_together` raises without a dtype, except for a head that must equal the embedding; see `check_tied`.
    """
    places = slots(family, shapes)
    dtypes: dict[str, torch.dtype] = {}
    for theirs, tensor in tensors:
        if theirs in places:
            slot = places[theirs]
            _check(theirs, tensor, slot)
            _check_alike(slot, dtypes.setdefault(slot.ours, tensor.dtype), tensor.dtype)
    names: dict[str, list[str]] = {}
    for theirs, slot in places.items():  # of a stack, starting with its first expert
        names.setdefault(slot.ours, []).append(theirs)
    return {ours: Located(shape, tuple(names[ours]), dtypes[ours]) for ours, shape in shapes.items()}


def check_tied(head: Tensor, embedding: Tensor) -> None:
    """Raises CheckpointError for a stored head that is not the embedding it is tied to."""
    if not torch.equal(head.to(embedding.dtype), embedding):
        raise CheckpointError(f"{HEAD} differs from the embedding although tie_word_embeddings is true")


def _check_alike(slot: Slot, stack: torch.dtype, expert: torch.dtype) -> None:
    if stack != expert:
        raise CheckpointError(f"the experts of {slot.ours} differ in dtype: choose one with --dtype")


def _check(theirs: str, tensor: Tensor, slot: Slot) -> None:
    if tensor.dtype not in FLOATS.values():
        raise UnsupportedModel(
            f"{theirs} is {tensor.dtype}: quantised weights are not supported, dequantise them first"
        )
    if tensor.shape != slot.shape:
        raise CheckpointError(
            f"{theirs} has shape {list(tensor.shape)}, and config.json asks for {list(slot.shape)}"
        )


def _place(
    state: dict[str, Tensor],
    shapes: Mapping[str, torch.Size],
    slot: Slot,
    tensor: Tensor,
    dtype: torch.dtype | None,
) -> None:
    dtype = tensor.dtype if dtype is None or slot.ours.endswith("router.bias") else dtype
    if slot.expert is None:
        state[slot.ours] = tensor.to(dtype)
        return
    if slot.ours not in state:
        state[slot.ours] = torch.empty(shapes[slot.ours], dtype=dtype)
    stack = state[slot.ours]
    _check_alike(slot, stack.dtype, dtype)
    stack[slot.expert] = tensor


def _n_layers(shapes: Mapping[str, torch.Size]) -> int:
    return sum(name.endswith(".attention_norm.weight") for name in shapes)


def _layer(theirs: str) -> int:
    found = _THEIR_LAYER.match(theirs)
    return -1 if found is None else int(found[1])


def _some(names: Collection[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(sorted(names)[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
