"""What an engine must have computed, by which step answered whom, and which of an operator's limits that breaks.

Pure. A request that arrived before a step and was answered by a later one had its whole prompt read in between; each further
token is one more. So a span of steps has a least number of computed tokens, whatever the engine says of itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Request:
    """One request: the step before which it arrives, the length of its prompt, how many tokens it wants."""

    arrives_at: int
    length: int
    answer: int
    owner: int
    priority: int = 0


@dataclass
class Served:
    """Which steps answered which requests, so far."""

    requests: Sequence[Request]
    n_steps: int = 0
    _steps: dict[int, list[int]] = field(default_factory=dict)  # place -> the steps of its tokens

    def take(self, places: Sequence[int]) -> str | None:
        """Note one step. What no engine could answer in it, if it did."""
        for place in places:
            if self.requests[place].arrives_at > self.n_steps or self.has_ended(place):
                return f"step {self.n_steps} answered a request that was not there"
        for place in places:
            self._steps.setdefault(place, []).append(self.n_steps)
        self.n_steps += 1
        return None

    def steps_of(self, place: int) -> list[int]:
        return self._steps.get(place, [])

    def places_of(self, step: int) -> list[int]:
        return sorted(place for place, steps in self._steps.items() if step in steps)

    def first_step(self, place: int) -> int:
        return self._steps[place][0]

    def n_tokens(self, place: int) -> int:
        return len(self.steps_of(place))

    def has_ended(self, place: int) -> bool:
        return self.n_tokens(place) >= self.requests[place].answer

    @property
    def is_done(self) -> bool:
        return all(self.has_ended(place) for place in range(len(self.requests)))

    def computed_between(self, first: int, last: int) -> int:
        """The least number of tokens that steps `first` to `last` computed."""
        total = 0
        for place, steps in self._steps.items():
            request = self.requests[place]
            if request.arrives_at >= first and steps[0] <= last:
                total += request.length
            total += sum(first <= step <= last for step in steps[1:])
        return total

    def running_at(self, step: int) -> int:
        """Requests that had a token by this step and wanted more."""
        return sum(
            bool(steps)
            and steps[0] <= step
            and (len(steps) < self.requests[place].answer or steps[-1] >= step)
            for place, steps in self._steps.items()
        )


def broken_limit(served: Served, step_tokens: int, max_running: int) -> str | None:
    """The limit that the last step broke, in words; None where all hold."""
    last = served.n_steps - 1
    for first in sorted({0, last, *(request.arrives_at for request in served.requests)}):
        if first > last:
            continue
        n_steps, computed = last - first + 1, served.computed_between(first, last)
        if computed > step_tokens * n_steps:
            return (
                f"the engine computed at least {computed} tokens in {n_steps} steps, and the operator allows "
                f"{step_tokens} a step: keep `step_tokens`"
            )
    if (running := served.running_at(last)) > max_running:
        return (
            f"{running} answers were in progress, and the operator allows {max_running}: keep `max_running`"
        )
    return _overtaken(served, last)


def _overtaken(served: Served, last: int) -> str | None:
    """Requests of equal length that arrived together: the one of higher priority is answered first."""
    for place in served.places_of(last):
        mine = served.requests[place]
        for other, request in enumerate(served.requests):
            is_equal = (request.arrives_at, request.length) == (mine.arrives_at, mine.length)
            if is_equal and request.priority > mine.priority and not served.steps_of(other):
                return (
                    f"a request of priority {mine.priority} was answered before one of priority {request.priority} "
                    "that arrived with it: keep priorities"
                )
    return None
