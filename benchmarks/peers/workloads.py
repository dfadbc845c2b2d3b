"""Workloads of engines: prompts of random token ids, fresh in every round, the same for all sides of a round.

Pure: a workload is a function of its name, the vocabulary and a seed.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any

FIRST_ID = 256  # tokenizers keep their special ids below


@dataclass(frozen=True)
class Request:
    """`n_new` tokens are wanted, chosen greedily; it arrives when all have produced `after` tokens together."""

    prompt: tuple[int, ...]
    n_new: int
    after: int = 0


@dataclass(frozen=True)
class Workload:
    """Requests in order of arrival. Raises ValueError where one could never arrive."""

    name: str
    requests: tuple[Request, ...]

    def __post_init__(self) -> None:
        promised = 0
        for request in self.requests:
            if request.after > promised:
                raise ValueError(f"{self.name}: a request waits for token {request.after} of {promised}")
            promised += request.n_new

    def to_json(self) -> list[dict[str, Any]]:
        return [{**asdict(request), "prompt": list(request.prompt)} for request in self.requests]


@dataclass(frozen=True)
class Kind:
    """Distribution of requests: lengths evenly between the two given, the last quarter of them arriving late."""

    batch: int
    prompt_tokens: tuple[int, int]
    new_tokens: tuple[int, int]


PREFILL = {"prefill 128": 128, "prefill 512": 512}
DECODE = {
    "decode B1": Kind(1, (32, 32), (40, 40)),
    "decode B8": Kind(8, (8, 64), (32, 48)),
    "decode B16": Kind(16, (8, 64), (24, 40)),
}
NAMES = (*PREFILL, *DECODE)
MAX_TOKENS = 640  # of a prompt and its answer, in every workload
LARGEST_BATCH = 16


def draw(name: str, vocabulary: int, seed: str) -> Workload:
    """A workload of one of `NAMES`. Raises KeyError for another name."""
    rng = random.Random(f"{seed} {name}")  # the same for all sides, another one in each round
    if name in PREFILL:
        return Workload(name, (Request(_ids(rng, vocabulary, PREFILL[name]), n_new=1),))
    kind = DECODE[name]
    late = kind.batch // 4
    requests = [
        Request(
            _ids(rng, vocabulary, rng.randint(*kind.prompt_tokens)),
            n_new=rng.randint(*kind.new_tokens),
            after=kind.batch * (number + late - kind.batch + 1) if number >= kind.batch - late else 0,
        )
        for number in range(kind.batch)
    ]
    return Workload(name, tuple(requests))


def shared_prefix(
    vocabulary: int, seed: str, *, prefix: int = 512, own: int = 16
) -> tuple[Workload, Workload]:
    """Two prompts with the same beginning, of which the second may find the first one's work done."""
    rng = random.Random(f"{seed} prefix")
    common = _ids(rng, vocabulary, prefix)
    first, second = (
        Workload(f"prefix {which}", (Request((*common, *_ids(rng, vocabulary, own)), n_new=1),))
        for which in ("miss", "hit")
    )
    return first, second


def _ids(rng: random.Random, vocabulary: int, count: int) -> tuple[int, ...]:
    return tuple(rng.randrange(FIRST_ID, vocabulary) for _ in range(count))
