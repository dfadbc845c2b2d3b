"""What a generated trace looks like: sessions, lengths, and times of day and week."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Whole tokens with this median; ``sigma`` is the standard deviation of the logarithm. Never above ``most``."""

    median: float
    sigma: float
    most: int = 1_000_000

    def draw(self, random: Random) -> int:
        # Box and Muller's transform: a stable figure for a seed, whatever Python's own `gauss` does.
        radius = math.sqrt(-2 * math.log(1 - random.random()))
        normal = radius * math.cos(2 * math.pi * random.random())
        return min(self.most, max(1, round(self.median * math.exp(self.sigma * normal))))


@dataclass(frozen=True, slots=True)
class Workload:
    """Parameters of one kind of traffic.

    A session begins with ``opening`` tokens, with probability ``system_share`` after its account's system prompt of
    ``system`` tokens. Each further turn sends all that came before, the last answer, and a ``message``; a session has
    another turn with probability ``another_turn``, after ``think_s`` seconds. ``single_share`` of the sessions are
    single short requests of ``single`` tokens instead. ``block_tokens`` is the size of the blocks that its prefixes are
    told in: 512 as in Mooncake's traces, or fewer where prompts are short.
    """

    name: str
    single_share: float
    single: LogNormal
    opening: LogNormal
    message: LogNormal
    output: LogNormal
    short_output: LogNormal
    short_output_share: float
    system: LogNormal
    system_share: float
    another_turn: float
    think_s: LogNormal
    block_tokens: int
    accounts: int = 200
    context_limit: int = 200_000

    @property
    def turns(self) -> float:
        """Expected requests of a session."""
        return self.single_share + (1 - self.single_share) / (1 - self.another_turn)


LONG_CONTEXT = Workload(
    name="long-context",
    single_share=0.55,
    single=LogNormal(137, 0.94, 8_000),
    opening=LogNormal(14_000, 0.7, 120_000),
    message=LogNormal(300, 1.4, 30_000),
    output=LogNormal(222, 0.62, 2_000),
    short_output=LogNormal(9.4, 1.17, 400),
    short_output_share=0.49,
    system=LogNormal(4_600, 1.17, 16_000),
    system_share=0.5,
    another_turn=0.615,
    think_s=LogNormal(60, 1.2, 7_200),
    block_tokens=512,
)
"""Long documents and agents: the lengths and the shared prefixes of Mooncake's traces."""

CONVERSATION = Workload(
    name="conversation",
    single_share=0.3,
    single=LogNormal(230, 1.2, 4_000),
    opening=LogNormal(470, 0.57, 8_000),
    message=LogNormal(235, 0.84, 4_000),
    output=LogNormal(407, 0.17, 1_000),
    short_output=LogNormal(95, 0.5, 1_000),
    short_output_share=0.65,
    system=LogNormal(500, 0.22, 2_000),
    system_share=0.3,
    another_turn=0.49,
    think_s=LogNormal(40, 1.0, 3_600),
    block_tokens=16,
    context_limit=14_000,
)
"""Chat: the lengths of Azure's conversation trace, in blocks as small as the engine's."""

WORKLOADS = {workload.name: workload for workload in (LONG_CONTEXT, CONVERSATION)}


@dataclass(frozen=True, slots=True)
class Week:
    """Rates by time of day and of week, relative to their mean, and a slow random factor on top."""

    swing: float = 0.4
    peak_hour: float = 14.0
    weekend: float = 0.7
    noise: float = 0.22
    noise_memory: float = 0.9

    def factor(self, at_s: float) -> float:
        """Relative rate at that second; the trace begins on a Monday at midnight UTC."""
        day, second = divmod(at_s, 86_400)
        angle = 2 * math.pi * (second / 3600 - self.peak_hour) / 24
        return (1 + self.swing * math.cos(angle)) * (self.weekend if int(day) % 7 >= 5 else 1)
