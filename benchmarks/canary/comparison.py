"""The candidate against one other tree: rounds of two fresh nodes, clocked by turns, one of them frozen at any time.

Round 0 prepares what a node keeps on disk, and is not clocked. State folders stay from round to round, so each
process is the next one for the words that were planted before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.canary.answers import Answer
from benchmarks.canary.exchange import Exchanged
from benchmarks.canary.held_out import NoDistribution, loss_micro_nats, vocabulary_size
from benchmarks.canary.leaks import Leaks
from benchmarks.canary.node import NodeFailed, NodeSetup
from benchmarks.canary.node_pair import CANDIDATE, PARTNER, SIDES, NodePair
from benchmarks.canary.order import LOOKS, PREFILL
from benchmarks.canary.planted import counter
from benchmarks.canary.verdict import looks_worse
from benchmarks.canary.work import TIMED, Call, Work
from model.serving.api.tokenizer import Tokenizer

SERVED = "served"
MOST_CONTEXT = 1 << 30


class Comparison:
    """`rounds` and `events` grow while it runs, in the document's form; an event ends it.

    `against` names the partner's tree: "served" or "best". `seats` are two, and which side has which is drawn.
    """

    def __init__(
        self,
        against: str,
        trees: Mapping[str, Path],
        folder: Path,
        seats: tuple[int, int],
        setup: NodeSetup,
        work: Work,
        tokenizer: Tokenizer,
        *,
        on_progress: Callable[[str], None],
    ) -> None:
        self.against = against
        self.rounds: list[dict[str, Any]] = []
        self.event: dict[str, str] | None = None
        self.leaks = Leaks(tokenizer)
        self._work = work
        drawn = work.sides(against, "seats").sample(seats, 2)
        self._nodes = NodePair(trees, folder, dict(zip(SIDES, drawn, strict=True)), setup)
        self._count = counter(tokenizer)
        self._vocabulary = vocabulary_size(tokenizer)
        self._on_progress = on_progress

    def run(self) -> None:
        """A look, and one more where a line looks worse than the served tree's, or up to the candidate's failure.

        Raises NodeFailed for the partner's.
        """
        for look in range(LOOKS):
            self._look(self._work.rounds_of(look))
            if self.event is not None or self.against != SERVED or not self._looks_worse():
                break

    def as_json(self) -> dict[str, Any]:
        """For the document."""
        return {"against": self.against, "rounds": self.rounds}

    def _looks_worse(self) -> bool:
        return looks_worse(self.as_json(), self._work.plan.to_json())

    def _look(self, numbers: range) -> None:
        once_more = ", once more" if numbers.start else ""
        for number in numbers:
            self._on_progress(f"against {self.against}{once_more}, round {number} of {numbers[-1]}")
            self.rounds.append(self._empty(number))
            try:
                with self._nodes.ended():
                    self._round(number)
                for side in SIDES:
                    self.leaks.check_log(self._nodes[side])
            except NodeFailed as failure:
                if failure.side != CANDIDATE:
                    raise
                self.event = {
                    "against": self.against,
                    "kind": failure.kind,
                    "stage": failure.stage,
                    "detail": failure.detail,
                }
                return

    @staticmethod
    def _empty(number: int) -> dict[str, Any]:
        zeros = dict.fromkeys(SIDES, 0)
        return {
            "number": number,
            "load_ns": dict(zeros),
            "peak_memory_bytes": dict(zeros),
            "cpu_while_frozen_ns": dict(zeros),
            "timed_ns": 0,
            "held_out_tokens": 0,
            "loss_micro_nats": dict(zeros),
            "calls": [],
        }

    def _round(self, number: int) -> None:
        self._last()["cpu_while_frozen_ns"] = self._nodes.cpu_while_frozen_ns  # grows from here on
        self._start(number)
        # Lengths are chosen once, by the served tree: against the best one the same is asked again.
        is_choosing = number == 0 and self.against == SERVED
        if is_choosing:
            self._work.fit(self._max_context())
        for side in SIDES:
            self.leaks.remember_files(self._nodes[side])
        planted = self._work.planted(number)
        for call in planted:
            self._ask(call, is_timed=is_choosing)
            self.leaks.plant(call)
        if is_choosing:
            self._work.fit_mixed(self._token_ns(planted))
        mixed = list(self._work.mixed(number))
        for call in mixed:
            self._ask(call, is_timed=is_choosing)
        if is_choosing:
            step_ns = sum(self._token_ns([call]) for call in mixed)
            self._work.shorten_timed(self._token_ns(planted), step_ns)
        for call in self._work.held_out(number):
            self._ask(call, is_timed=False)
        for pair in self._work.pairs_of(number):
            for call in self._work.timed(pair):
                self._ask(call, is_timed=True)
        for call in self._work.probes(number, planted):
            self._ask(call, is_timed=False)
        for side in SIDES:
            self._last()["peak_memory_bytes"][side] = self._nodes[side].peak_memory_bytes()
            self.leaks.check_files(self._nodes[side])

    # -- calls ------------------------------------------------------------------------------------------

    def _start(self, number: int) -> None:
        """Each answers a first request: by turns, but both at once in round 0, which clocks nothing."""
        call = self._work.first(number)
        names = self._work.sides(self.against, "start", number).sample(SIDES, 2)
        started = self._nodes.start(names, call.asks[0], is_clocked=number > 0)
        for side, (_, load_ns) in started.items():
            self._last()["load_ns"][side] = load_ns
        self._record(call, names, {side: [started[side][0]] for side in SIDES}, {})

    def _ask(self, call: Call, *, is_timed: bool) -> None:
        """One call of both nodes, by turns where its times count, else at once; then the comparison while both are frozen."""
        place = len(self._last()["calls"])
        names = self._work.sides(self.against, self._last()["number"], place).sample(SIDES, 2)
        ask = self._nodes.by_turns if is_timed else self._nodes.at_once
        done = ask(names, call.asks, call.case)
        answers = {side: done[side][0] for side in SIDES}
        self._record(call, names, answers, {side: done[side][1] for side in SIDES})

    def _record(
        self,
        call: Call,
        names: list[str],
        answers: Mapping[str, list[Answer]],
        done: Mapping[str, Exchanged],
    ) -> None:
        """Into the document first, so that what is raised then can be checked there."""
        if call.case in TIMED:
            self._last()["timed_ns"] += sum(one.ns for one in done.values())
        self._last()["calls"].append(
            {
                "case": call.case,
                "batch": call.batch,
                "pair": call.pair,
                "prompt_tokens": self._count(str(call.asks[0].prompt)) if call.case == PREFILL else None,
                "output_tokens": call.asks[0].output_tokens if call.case in TIMED else None,
                "order": names,
                "ns": {side: done[side].ns for side in SIDES} if done else None,
                "clocked_ms": {
                    side: sum(reply.ns for reply in done[side].replies) // 1_000_000 for side in SIDES
                }
                if done
                else None,
                "counted_ms": {side: sum(one.counted_ms for one in answers[side]) for side in SIDES},
                "answers": {side: [one.digest() for one in answers[side]] for side in SIDES},
            }
        )
        for side in SIDES:
            self.leaks.check_answers(side, call, answers[side])
            for ask, answer in zip(call.asks, answers[side], strict=True):
                if answer.completion_tokens != ask.output_tokens:
                    detail = f"{answer.completion_tokens} tokens where {ask.output_tokens} were asked for"
                    raise NodeFailed("malformed", side, call.case, detail)
        self._score(call, answers)

    def _score(self, call: Call, answers: Mapping[str, list[Answer]]) -> None:
        """Add the loss of both sides at the call's targets."""
        self._last()["held_out_tokens"] += len(call.targets)
        for side in SIDES:
            try:
                losses = [
                    loss_micro_nats(answer, target, self._vocabulary)
                    for answer, target in zip(answers[side], call.targets, strict=False)
                ]
            except NoDistribution as error:
                raise NodeFailed("malformed", side, call.case, str(error)) from None
            self._last()["loss_micro_nats"][side] += sum(losses)

    def _token_ns(self, calls: Sequence[Call]) -> int:
        """The least that the partner took for a token of such calls, in this round."""
        case, batch = calls[0].case, calls[0].batch
        most = max(ask.output_tokens for call in calls for ask in call.asks)
        times: list[int] = [
            made["ns"][PARTNER]
            for made in self._last()["calls"]
            if (made["case"], made["batch"]) == (case, batch)
        ]
        return max(1, min(times) // most)

    def _max_context(self) -> int:
        """The model's context as the partner says it: it decides lengths only. Raises NodeFailed."""
        stated = self._nodes[PARTNER].describe().get("max_context")
        if type(stated) is not int or not 0 < stated <= MOST_CONTEXT:
            raise NodeFailed("malformed", PARTNER, "start", "it does not say the model's context")
        return stated

    def _last(self) -> dict[str, Any]:
        return self.rounds[-1]
