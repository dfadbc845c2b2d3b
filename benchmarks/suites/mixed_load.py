"""Suite `mixed_load`: what users feel while others' long prompts are read, and whether an operator's limits hold.

A trial that guards other suites' gains; no bounty pays for it. The sample drives the stack's scheduler and executor one step
a message (`mixed_load_sample.py`). A message brings the requests that arrived since the step before and the next id of each
sequence which that step answered: what a serving engine knows, nothing of later arrivals. Both sides take the same steps by
turns, each clocked here.

    between-tokens   mean time between two tokens of the running chats, while a long prompt has arrived and is not read yet
    first-token      mean time from arrival to the first token of the short prompts, which come behind the long ones: of
                     another owner, of the same one, and two of unequal priority

Every answer of every request is compared as in suites `prefill` and `decode`. From which step answered whom the judge derives
what the engine must have computed: more tokens in a span of steps than the operator's `step_tokens` allows, more running
answers than `max_running`, a lower priority that goes first, or a request that is never answered is a wrong output.

    sizes      `benchmarks/catalogue/serving.py`; limits, lengths, weights and ids are secret
    tolerance  `decoder_suite.TOLERANCES`: single precision; bfloat16 inside fails by a factor of 1,000
    unit       ns until a token; a pair's value is ln(base's / candidate's), margin 5 %
    power      some 15 steps of 25 ms decide a value (demo); the guard's test takes more pairs where they are noisy
    time       at most 15 s a pair (demo), most of it starting, drawing and checking

Imports numpy and the oracle, not torch.
"""

import random
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

import benchmarks.pairs.checks as checks  # not `from`: it imports the suites' base itself
from benchmarks.catalogue import MIXED_LOAD
from benchmarks.catalogue.serving import CHATS, FIRST_TOKEN, LONG, RANKED, REQUESTS, SHORT
from benchmarks.suites.base import (
    SAMPLES,
    WARM_UP,
    Array,
    Problem,
    Suite,
    Tensors,
    TensorSpec,
    Tolerance,
    Trial,
    TrialSides,
    sized,
)
from benchmarks.suites.decoder_problem import DecoderProblem
from benchmarks.suites.decoder_suite import TOLERANCES
from benchmarks.suites.operator_limits import Request, Served, broken_limit

LONG_AT, SHORT_AT, RANKED_AT = 3, 4, 5  # the steps before which they arrive
LONG_ANSWER, SHORT_ANSWER = 2, 6  # tokens
HEAVY_OWNER = 90
MOST_STEPS = 200  # of a round, where base takes 20 to 30


class MixedLoadProblem(DecoderProblem):
    """Requests and their ids. Dimensions in addition to the widths: see `benchmarks.catalogue.serving`.

    A message has `arrived` [A, 4] (place, length, owner, priority) with `prompts` [T], `continued` [C, 2] (place, id) and
    `ended` [E] (places). The answer is `produced` [R], 1 for places whose sequence was read to its end in this step, with
    `logits` [R, V], zero elsewhere.
    """

    def __init__(self, shape: dict[str, int], rng: np.random.Generator) -> None:
        super().__init__(shape, rng, REQUESTS)
        self.config |= {"step_tokens": shape["step_tokens"], "max_running": shape["max_running"]}
        self.outputs = (
            TensorSpec("produced", "int64", (REQUESTS,)),
            TensorSpec("logits", "float32", (REQUESTS, shape["vocab"])),
        )
        self.floor_flops = 0

    def requests(self) -> tuple[Request, ...]:
        """Who asks what, by place. Two of unequal priority come together, the lower one at the lower place."""
        long, short, chat = (self.shape[name] for name in ("long", "short", "chat"))
        chats = [Request(0, short, chat + place, place) for place in range(CHATS)]
        longs = [Request(LONG_AT, long, LONG_ANSWER, HEAVY_OWNER) for _ in range(LONG)]
        shorts = [Request(SHORT_AT, short, SHORT_ANSWER, owner) for owner in (HEAVY_OWNER + 1, HEAVY_OWNER)]
        ranked = [Request(RANKED_AT, short, SHORT_ANSWER, 50 + rank, priority=rank) for rank in range(RANKED)]
        return (*chats, *longs, *shorts[:SHORT], *ranked)

    def draw_inputs(self, rng: np.random.Generator, turn: int) -> Tensors:
        """Fresh prompts of all requests (WARM_UP), then one more id for each of them."""
        if turn == WARM_UP:
            return self.begin(rng, turn, [request.length for request in self.requests()])
        return self.add_ids(rng, turn)


@dataclass(frozen=True)
class Round:
    """The ids of one round: nothing of it is sent before its time."""

    requests: tuple[Request, ...]
    prompts: list[Array]
    next_ids: list[Array]  # [REQUESTS] after each token
    inputs: list[Tensors]  # the problem's, by token

    @classmethod
    def drawn(cls, problem: MixedLoadProblem, rng: np.random.Generator) -> "Round":
        requests = problem.requests()
        most = max(request.answer for request in requests)
        inputs = [problem.draw_inputs(rng, turn) for turn in range(WARM_UP, most - 1)]
        ends = np.cumsum(inputs[0]["lengths"])[:-1]
        return cls(requests, np.split(inputs[0]["ids"], ends), [each["ids"] for each in inputs[1:]], inputs)


@dataclass
class Engine:
    """One side's round so far, as the judge sees it."""

    round: Round
    served: Served
    elapsed_ns: list[int] = field(default_factory=list)  # of each step
    logits: dict[tuple[int, int], Array] = field(default_factory=dict)  # (place, token) -> [V]

    @property
    def is_done(self) -> bool:
        return self.served.is_done

    def message(self) -> Tensors:
        """What a serving engine knows before its next step."""
        requests, served, step = self.round.requests, self.served, self.served.n_steps
        arriving = [place for place, request in enumerate(requests) if request.arrives_at == step]
        answered = served.places_of(step - 1)
        going_on = [place for place in answered if not served.has_ended(place)]
        ended = [place for place in answered if served.has_ended(place)]
        rows = [
            (place, requests[place].length, requests[place].owner, requests[place].priority)
            for place in arriving
        ]
        prompts = [self.round.prompts[place] for place in arriving]
        next_ids = [(place, self.round.next_ids[served.n_tokens(place) - 1][place]) for place in going_on]
        return {
            "arrived": np.array(rows, np.int64).reshape(-1, 4),
            "prompts": np.concatenate([np.empty(0, np.int64), *prompts]),
            "continued": np.array(next_ids, np.int64).reshape(-1, 2),
            "ended": np.array(ended, np.int64),
        }

    def take(self, answer: Tensors, elapsed_ns: int) -> str | None:
        """Note a step's answer. What is wrong with it at once, if anything."""
        places = [int(place) for place in np.flatnonzero(answer["produced"])]
        wrong = self.served.take(places)
        if wrong is None:
            self.elapsed_ns.append(elapsed_ns)
            for place in places:
                self.logits[place, self.served.n_tokens(place) - 1] = answer["logits"][place].copy()
        return wrong

    # -- what users feel ----------------------------------------------------------------------------

    def between_tokens_ns(self) -> list[int]:
        """Times between two tokens of the chats that end while a long prompt waits or is read."""
        longs = range(CHATS, CHATS + LONG)
        until = max(self.served.first_step(place) for place in longs)
        gaps = []
        for place in range(CHATS):
            steps = self.served.steps_of(place)
            for before, after in pairwise(steps):
                if LONG_AT <= after <= until:
                    gaps.append(sum(self.elapsed_ns[before + 1 : after + 1]))
        return gaps

    def first_token_ns(self) -> list[int]:
        """Times from arrival to the first token of the short prompts that came behind the long ones."""
        return [
            sum(self.elapsed_ns[self.round.requests[place].arrives_at : self.served.first_step(place) + 1])
            for place in range(CHATS + LONG, REQUESTS)
        ]


@dataclass(frozen=True)
class MixedLoadTrial(Trial):
    """See the module's docstring."""

    tolerance: Tolerance

    def run(self, problem: Problem, sides: TrialSides, order: random.Random) -> dict[str, int]:
        assert isinstance(problem, MixedLoadProblem)
        felt: dict[str, list[int]] = {name: [] for name in sides.names}
        for number in range(WARM_UP, problem.shape["rounds"]):
            engines = self._serve(problem, sides, order, number)
            self._check(problem, sides, engines)
            for name, engine in engines.items() if number != WARM_UP else ():
                is_first = problem.shape["feels"] == FIRST_TOKEN
                felt[name] += engine.first_token_ns() if is_first else engine.between_tokens_ns()
        return {name: max(1, sum(times) // max(1, len(times))) for name, times in felt.items()}

    def _serve(
        self, problem: MixedLoadProblem, sides: TrialSides, order: random.Random, number: int
    ) -> dict[str, Engine]:
        """One round, step by step on both sides; the first is not counted."""
        load = Round.drawn(problem, sides.numbers("round", number))
        limits = problem.shape["step_tokens"], problem.shape["max_running"]
        engines = {name: Engine(load, Served(load.requests)) for name in sides.names}
        for _ in range(MOST_STEPS):
            left = [name for name in sides.names if not engines[name].is_done]
            for name in order.sample(left, len(left)):
                engine = engines[name]
                answer, elapsed_ns = sides.call(
                    name, engine.message(), problem.outputs, is_timed=number != WARM_UP
                )
                wrong = engine.take(answer, elapsed_ns) or broken_limit(engine.served, *limits)
                if wrong is not None:
                    raise sides.fail("wrong_output", name, wrong)
            if not left:
                self._dismiss(problem, sides, engines)
                return engines
        (name, *_) = [name for name in sides.names if not engines[name].is_done]
        raise sides.fail("wrong_output", name, f"requests were left without an answer for {MOST_STEPS} steps")

    def _dismiss(self, problem: MixedLoadProblem, sides: TrialSides, engines: dict[str, Engine]) -> None:
        """Tell both sides, untimed, that the last requests have ended."""
        for name in sides.names:
            sides.call(name, engines[name].message(), problem.outputs, is_timed=False)

    def _check(self, problem: MixedLoadProblem, sides: TrialSides, engines: dict[str, Engine]) -> None:
        """Every token of every request; prompts and the last tokens with the oracle as well."""
        load = engines["base"].round
        for token, inputs in enumerate(load.inputs):
            places = [place for place, request in enumerate(load.requests) if token < request.answer]
            rows = Rows(problem, places)
            base, candidate = (
                {"logits": np.stack([engines[name].logits[place, token] for place in places])}
                for name in ("base", "candidate")
            )
            turn, with_oracle = token - 1, token in (0, len(load.inputs) - 1)
            wrong = checks.compare_pair(base, candidate, rows, inputs, turn, self._tolerance_of)
            if wrong is None and with_oracle:
                wrong = checks.compare_oracle(base, candidate, rows, inputs, turn, self._tolerance_of)
            sides.checked(with_oracle=with_oracle)
            if wrong is not None:
                raise sides.fail("wrong_output", wrong.side, wrong.detail)

    def _tolerance_of(self, output: str) -> Tolerance:
        return self.tolerance


class Rows(Problem):
    """The answers of a problem at some places."""

    def __init__(self, problem: Problem, places: list[int]) -> None:
        self._problem, self._places = problem, places

    def draw_inputs(self, rng: np.random.Generator, turn: int) -> Tensors:
        return self._problem.draw_inputs(rng, turn)

    def exact(self, inputs: Tensors, turn: int) -> Tensors:
        return {name: value[self._places] for name, value in self._problem.exact(inputs, turn).items()}

    def plain(self, inputs: Tensors, turn: int) -> Tensors:
        return {name: value[self._places] for name, value in self._problem.plain(inputs, turn).items()}


@dataclass(frozen=True)
class MixedLoad(Suite):
    """See the module's docstring."""

    @property
    def sample_module(self) -> Path:
        return SAMPLES / "mixed_load_sample.py"

    @property
    def sample_helpers(self) -> tuple[Path, ...]:
        return (SAMPLES / "decoder_sample.py",)

    @property
    def trial(self) -> Trial:
        return MixedLoadTrial(self.tolerance)

    def problem(self, shape: dict[str, int], rng: np.random.Generator) -> MixedLoadProblem:
        return MixedLoadProblem(shape, rng)


def mixed_load(preset: str) -> MixedLoad:
    """The suite at one preset's sizes; raises UnknownSuite."""
    return MixedLoad(**sized(MIXED_LOAD, preset), oracle_checks=0, tolerance=TOLERANCES[preset])
