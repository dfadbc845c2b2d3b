"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864) and its usual stretches to longer contexts.

Dimension i of a head is rotated with dimension i + C/2 (Llama on Hugging Face), or neighbours 2i and 2i + 1 are
if the rotation is interleaved (the paper's and DeepSeek's layout). Frequencies and angles are computed in
fp32. `softmax_factor` is for attention to multiply its scale with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from model.config import ConfigError, ModelConfig, RopeScaling


class Rotation(NamedTuple):
    """Cosines and sines per position, [..., C], in the dtype of the rotated heads."""

    cos: Tensor
    sin: Tensor
    is_interleaved: bool = False


@dataclass(frozen=True)
class Rotary:
    """Maps positions to rotations: everything that decides the angles of `d_rotary` dimensions."""

    d_rotary: int
    theta: float
    max_positions: int
    scaling: RopeScaling | None = None
    is_interleaved: bool = False

    def __post_init__(self) -> None:
        if self.is_dynamic and self.d_rotary <= 2:
            raise ConfigError("RopeScaling.kind dynamic needs heads of more than two rotary dimensions")

    @classmethod
    def of(cls, config: ModelConfig) -> Rotary:
        d_rotary = config.d_head if config.latent is None else config.latent.d_rope
        return cls(
            d_rotary, config.rope_theta, config.max_context, config.rope_scaling, config.rope_interleaved
        )

    @property
    def is_dynamic(self) -> bool:
        """Whether rotations depend on the sequence's length."""
        return self.scaling is not None and self.scaling.kind == "dynamic"

    def at(self, positions: Tensor, dtype: torch.dtype, lengths: Tensor | None = None) -> Rotation:
        """Rotation [..., C] of integer positions [...], each below `max_positions`.

        `lengths`, broadcastable to `positions`, counts the tokens of each position's sequence so far; only `dynamic`
        scaling uses it, and takes the largest position of each row plus one if it is None.
        """
        if self.scaling is not None and self.is_dynamic:
            if lengths is None:
                lengths = positions.amax(-1, keepdim=True) + 1
            angles = positions[..., None].float() * self._dynamic_frequencies(lengths, self.scaling)
            return Rotation(*_turns(angles, 1.0, dtype, self.is_interleaved), self.is_interleaved)
        # Fake tensors (planning without memory) and other subclasses must not be cached for real ones.
        table = _table if type(positions) is Tensor else _table.__wrapped__
        cos, sin = table(self, dtype, positions.device)
        return Rotation(cos[positions], sin[positions], self.is_interleaved)

    def frequencies(self, device: torch.device) -> Tensor:
        """Radians per position [C/2] of each pair, fp32; for `dynamic` those within the original context."""
        plain = 1 / self.theta ** self._exponents(device)
        scaling = self.scaling
        if scaling is None or scaling.kind == "dynamic":
            return plain
        if scaling.kind == "linear":
            return plain / scaling.factor
        if scaling.kind == "llama3":
            return _llama3(plain, scaling)
        return _yarn(plain, scaling, self.theta)

    def _exponents(self, device: torch.device) -> Tensor:
        return torch.arange(0, self.d_rotary, 2, device=device, dtype=torch.float32) / self.d_rotary

    def _dynamic_frequencies(self, lengths: Tensor, scaling: RopeScaling) -> Tensor:
        """NTK-aware: theta grows with a sequence beyond the original context, [..., C/2].

        A cached key keeps the rotation of the time when it was cached, as in Hugging Face's implementation: beyond the
        original context, decoding through a cache is therefore not quite the forward pass of the whole sequence.
        """
        stretch = (lengths.float() / scaling.original_context).clamp(min=1)
        growth = scaling.factor * stretch - (scaling.factor - 1)
        theta = self.theta * growth ** (self.d_rotary / (self.d_rotary - 2))
        return 1 / theta[..., None] ** self._exponents(lengths.device)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate heads [..., n_heads, C] by the rotation [..., C] of their positions."""
    cos, sin, is_interleaved = rotation
    if is_interleaved:
        across = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
    else:
        first, second = x.chunk(2, dim=-1)
        across = torch.cat((-second, first), dim=-1)
    return x * cos[..., None, :] + across * sin[..., None, :]


def amplitude(scaling: RopeScaling | None) -> float:
    """YaRN's factor on cosines and sines; 1 for every other kind.

    Given, or 0.1 ln(factor) + 1 (arXiv:2309.00071), or DeepSeek's ratio of two such terms.
    """
    if scaling is None or scaling.kind != "yarn":
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dims:
        return _mscale(scaling.factor, scaling.mscale) / _mscale(scaling.factor, scaling.mscale_all_dims)
    return _mscale(scaling.factor, 1.0)


def softmax_factor(scaling: RopeScaling | None) -> float:
    """DeepSeek's factor on the softmax scale of MLA, `mscale_all_dims`; 1 if it is not given."""
    if scaling is None or scaling.kind != "yarn" or not scaling.mscale_all_dims:
        return 1.0
    return _mscale(scaling.factor, scaling.mscale_all_dims) ** 2


def _mscale(factor: float, weight: float) -> float:
    return 0.1 * weight * math.log(factor) + 1.0


def _llama3(plain: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3.1's scaling: long waves are stretched by the factor, short ones are kept, those between are blended."""
    waves_per_context = scaling.original_context * plain / (2 * math.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept = ((waves_per_context - low) / (high - low)).clamp(0, 1)
    return plain / scaling.factor * (1 - kept) + plain * kept


def _yarn(plain: Tensor, scaling: RopeScaling, theta: float) -> Tensor:
    """YaRN's scaling: pairs that turn often within the original context are kept, those that turn seldom are stretched."""
    d_rotary = 2 * plain.shape[0]

    def pair_that_turns(times: float) -> float:
        waves = scaling.original_context / (times * 2 * math.pi)
        return d_rotary * math.log(waves) / (2 * math.log(theta))

    first, last = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, d_rotary - 1)
    pairs = torch.arange(d_rotary // 2, device=plain.device, dtype=torch.float32)
    # Equal limits make a step; the minimum width avoids a division by zero.
    stretched = ((pairs - first) / (last - first or 1e-3)).clamp(0, 1)
    return plain / scaling.factor * stretched + plain * (1 - stretched)


def _turns(angles: Tensor, factor: float, dtype: torch.dtype, is_interleaved: bool) -> tuple[Tensor, Tensor]:
    """Cosines and sines [..., C] of the angles [..., C/2] of each pair, times `factor`."""
    cos, sin = angles.cos() * factor, angles.sin() * factor
    if is_interleaved:
        cos, sin = cos.repeat_interleave(2, dim=-1), sin.repeat_interleave(2, dim=-1)
    else:
        cos, sin = torch.cat((cos, cos), dim=-1), torch.cat((sin, sin), dim=-1)
    return cos.to(dtype), sin.to(dtype)


@lru_cache(maxsize=8)
def _table(rotary: Rotary, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # the table outlives this call, and training uses it too
        positions = torch.arange(rotary.max_positions, device=device, dtype=torch.float32)
        angles = positions[:, None] * rotary.frequencies(device)
        return _turns(angles, amplitude(rotary.scaling), dtype, rotary.is_interleaved)
