"""Choose the experts on the accelerator: decaying counts of their use, and exchanges with hysteresis.

Pure: takes and returns plain numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class HeatRules:
    """Rules for moving an expert.

    An expert replaces another when its heat is above the other's by the share `margin` and by `least_pairs`
    (token, expert) pairs, so that chance alone moves nothing; at most `at_most` of a layer move at a time, since a
    move delays the next step. Heat is the number of pairs, which decays by half in `half_life_tokens`.
    """

    margin: float = 0.25
    least_pairs: float = 8.0
    at_most: int = 2
    half_life_tokens: int = 4096
    every_tokens: int = 256

    def __post_init__(self) -> None:
        if self.margin < 0 or self.least_pairs < 0:
            raise ValueError("HeatRules.margin and least_pairs must not be negative")
        for field in ("at_most", "half_life_tokens", "every_tokens"):
            if getattr(self, field) < 1:
                raise ValueError(f"HeatRules.{field} must be at least 1")


def faded(heat: Sequence[float], pairs: Sequence[int], n_tokens: int, rules: HeatRules) -> list[float]:
    """Each expert's decayed heat after `n_tokens` more tokens, of which `pairs` went to it."""
    keep = 0.5 ** (n_tokens / rules.half_life_tokens)
    return [keep * before + new for before, new in zip(heat, pairs, strict=True)]


def exchanges(heat: Sequence[float], hot: Sequence[int], rules: HeatRules) -> list[tuple[int, int]]:
    """Pairs (leaving, entering): the hottest cold expert for the coldest hot one, as long as the rules allow."""
    on_accelerator = set(hot)
    leaving = sorted(on_accelerator, key=lambda expert: (heat[expert], expert))
    cold = [expert for expert in range(len(heat)) if expert not in on_accelerator]
    entering = sorted(cold, key=lambda expert: (-heat[expert], expert))
    moves: list[tuple[int, int]] = []
    for old, new in zip(leaving[: rules.at_most], entering, strict=False):
        if heat[new] < heat[old] * (1 + rules.margin) or heat[new] - heat[old] < rules.least_pairs:
            break
        if heat[new] == heat[old]:
            break
        moves.append((old, new))
    return moves
