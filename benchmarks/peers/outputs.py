"""Check of a side's answers: each token's logit must be the best one, or close to it, by a reference in fp32.

The reference reads a side's own answer (so one close call does not spoil what follows it) and says by how many nats each
token falls short of the best: its regret. Exact arithmetic has none; rounding makes close calls go the other way, with a
regret of the size of its error; a wrong model's tokens fall short by several nats. Pure.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.report import Row, shown

#: Most of the mean regret in nats. Logits of the compared models spread by 1 nat and more, the best of 49,152 is 4 above.
#: A single token may fall short by much more: rounding can choose another expert.
TOLERANCE = {"fp32": 1e-4, "bf16": 0.02, "f16": 0.02, "int8": 0.06, "int8-dynamic": 0.06, "q8_0": 0.06}


@dataclass(frozen=True)
class Regrets:
    """Regret over all tokens of a side's checked answers, in nats."""

    worst: float
    mean: float
    n_tokens: int
    n_best: int  # tokens that the reference would have chosen too

    @classmethod
    def of(cls, regrets: Sequence[Sequence[float]]) -> Regrets:
        """Raises ValueError where there is no token."""
        values = [value for sequence in regrets for value in sequence]
        if not values:
            raise ValueError("no token was checked")
        return cls(max(values), statistics.fmean(values), len(values), sum(value == 0 for value in values))


def output_row(side: str, model: str, weights: str, regrets: Regrets) -> Row:
    """Row that says if a side's tokens are the model's."""
    allowed = TOLERANCE[weights]
    return Row(
        f"serve, answers of {side}: {model}",
        round(regrets.mean, 5),
        "nats",
        f"<= {shown(allowed)}",
        regrets.mean <= allowed,
        f"mean regret of {regrets.n_tokens} greedy tokens by fp32 transformers (worst {regrets.worst:.3f}); "
        f"{regrets.n_best} are its own choice too",
    )
