"""Derivation of a child model: the parent tensor that each of its tensors is made from.

The same description applies to weights and to the optimiser's moments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import ConfigError, ModelConfig

Moments = dict[str, Tensor]  # of one parameter: `step` and tensors of the parameter's shape


def whole(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Copied:
    """A child's tensor is `pick` of the parent's tensor `name`, times `factor`.

    `pick` copies elements and computes nothing. `noise` is the deviation of noise on weights, as a share of the tensor's
    root mean square. The parent's moments are copied too, unless `is_new`: a tensor in another place than its source
    has another gradient.
    """

    name: str
    pick: Callable[[Tensor], Tensor] = whole
    factor: float = 1.0
    noise: float = 0.0
    is_new: bool = False


@dataclass(frozen=True)
class Drawn:
    """A child's tensor is `pick` of normal random numbers of deviation `std` in `shape`; zeros if `std` is 0.

    Its dtype and device are those of the parent's tensor `like`, or fp32 where `is_fp32`.
    """

    shape: tuple[int, ...]
    std: float
    like: str
    pick: Callable[[Tensor], Tensor] = whole
    is_fp32: bool = False


@dataclass(frozen=True)
class Growth:
    """Derivation of all of a child's tensors from its parent's.

    `preserves` says that the child computes its parent's function: logits differ by rounding alone, in evaluation.
    """

    config: ModelConfig
    sources: Mapping[str, Copied | Drawn]
    preserves: bool
    seed: int = 0

    def state(self, parent: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The child's state dict. Unchanged tensors are the parent's own, but no two of the child's share memory.

        Raises ConfigError where `parent` is not the state of the model that this growth was made for.
        """
        named = {source.name for source in self.sources.values() if isinstance(source, Copied)}
        missing, unused = named - set(parent), set(parent) - named
        if missing or unused:
            first = sorted(missing or unused)[0]
            raise ConfigError(
                f"this growth is for a parent of another configuration: {first} is "
                f"{'missing from' if missing else 'unexpected in'} its state"
            )
        drawing = torch.Generator().manual_seed(self.seed)
        disturbing = torch.Generator().manual_seed(self.seed + 1)
        child: dict[str, Tensor] = {}
        for name, source in self.sources.items():
            if isinstance(source, Copied):
                child[name] = _copied(source, parent[source.name], disturbing)
            else:
                child[name] = _drawn(source, parent[source.like], drawing)
        return child

    def moments(self, parent: Mapping[str, Moments]) -> dict[str, Moments]:
        """The child's moments by parameter name; new parameters have none and start without.

        AdamW divides a moment by another's root, so copied weights can use copied moments unchanged.
        """
        return {
            name: {key: _moved(value, source) for key, value in parent[source.name].items()}
            for name, source in self.sources.items()
            if isinstance(source, Copied) and not source.is_new and source.name in parent
        }


def _copied(source: Copied, tensor: Tensor, disturbing: torch.Generator) -> Tensor:
    picked = source.pick(tensor)
    if source.factor != 1:
        picked = picked * source.factor if source.factor else torch.zeros_like(picked)
    if source.noise:
        rms = tensor.float().square().mean().sqrt().cpu()
        noise = torch.randn(picked.shape, generator=disturbing) * (source.noise * rms)
        picked = (picked.float() + noise.to(picked.device)).to(picked.dtype)
    # a new tensor must not share memory with its source, which may be in the child as well
    return picked.clone(memory_format=torch.contiguous_format) if source.is_new else picked.contiguous()


def _drawn(source: Drawn, like: Tensor, drawing: torch.Generator) -> Tensor:
    numbers = torch.zeros(source.shape)
    if source.std:
        numbers = torch.randn(source.shape, generator=drawing) * source.std
    dtype = torch.float32 if source.is_fp32 else like.dtype
    return source.pick(numbers).to(like.device, dtype).contiguous()


def _moved(value: Tensor, source: Copied) -> Tensor:
    return (
        value.clone() if value.ndim == 0 else source.pick(value).clone(memory_format=torch.contiguous_format)
    )
