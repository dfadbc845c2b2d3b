"""Engine core without a thread: it accepts jobs, and each call of `step` computes one step and notifies listeners.

The scheduler plans a step, an executor computes it, samplers choose tokens from its logits; the core connects them
and counts what each request used.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.sampling import ConstraintError
from model.serving.engine.blocks import BlockPool
from model.serving.engine.cache import widest_window
from model.serving.engine.scheduler import Plan, Scheduler, Work
from model.serving.engine.sequence import SequenceState
from model.serving.engine.stats import EngineStats, StepReport
from model.serving.executors.base import Executor, compute
from model.serving.metering.cost import StepCost
from model.serving.metering.generation import EngineLimits, Event, Finish
from model.serving.metering.job import Answer, Job
from model.serving.metering.prefixes import PaidPrefixes, records_for
from model.serving.metering.tokens import AnswerToken, BadTokensError, answer_tokens, whole
from model.serving.metering.usage import DeviceMeter
from model.serving.node.served import ServedModel
from model.serving.speculation.choice import MakeProposer

log = logging.getLogger(__name__)
LEAST_TOKENS_TIMED = 32  # a step with fewer prompt tokens does not show the rate of reading prompts

Outcome = list[AnswerToken] | None  # an answer's next tokens; None if its logits or constraint are unusable


@dataclass
class EngineCore:
    """The engine's core, called by one thread; `on_step` is called after each step, `make_proposer` for each answer."""

    served: ServedModel
    limits: EngineLimits
    executor: Executor
    on_step: Callable[[StepReport], None] | None = None
    make_proposer: MakeProposer | None = None
    clock_ns: Callable[[], int] = time.monotonic_ns

    def __post_init__(self) -> None:
        self.device = DeviceMeter()
        self.stats = EngineStats()
        self.pool = BlockPool(self.executor.n_blocks, self.executor.block_tokens)
        self.scheduler = Scheduler(
            self.pool,
            max_running=self.limits.max_running,
            step_tokens=self.limits.step_tokens,
            max_drafts=self.limits.max_drafts,
            window=widest_window(self.served.transformer.config),
        )
        self._paid = PaidPrefixes(
            records_for(whole(self.pool.n_blocks)), max(1, whole(self.pool.block_tokens))
        )
        self._cost = StepCost.of(self.served.transformer.config)
        self._answer_of: dict[SequenceState, Answer] = {}
        self._queued: dict[Job, None] = {}  # those that have not started, in order of arrival
        self._unheard: list[Job] = []  # jobs whose listener failed
        self._holding_changes = 0  # the pool's count of changes when requests were last metered
        self._drafting_ns = 0  # within the last call of the scheduler
        self._least_ns_per_token = 0.0  # the fastest that a prompt was read

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    @property
    def jobs(self) -> list[Job]:
        """Jobs that have not ended."""
        return list(dict.fromkeys(answer.job for answer in self._answer_of.values()))

    @property
    def queued(self) -> list[Job]:
        """Jobs that have not started; preempted or forked ones are not queued. Any thread may call it."""
        return list(self._queued)

    def add(self, job: Job) -> None:
        """Add a job. Raises NeverFitsError."""
        self.scheduler.add(job.sequence, self.clock_ns())
        self._answer_of[job.sequence] = job.answers[0]
        self._queued[job] = None

    def end(self, job: Job, finish: Finish) -> None:
        """End the unended answers of a job."""
        for answer in job.open_answers:
            self._end(answer, finish)

    def step(self) -> None:
        """Compute one step; there must be work."""
        for job in self._unheard:
            self.end(job, Finish.CANCELLED)
        self._unheard.clear()
        self._end_overdue()
        if self.has_work:
            self._step()

    def _step(self) -> None:
        begun_ns = self.clock_ns()
        self._drafting_ns = 0
        plan = self.scheduler.schedule(begun_ns, self._draft if self.make_proposer is not None else None)
        started_ns = self.clock_ns()
        self._meter_plan(plan, started_ns)
        try:
            outcomes = self._compute(plan)
        except Exception:  # no error of a patched stack may end the node
            log.exception("a step with %d sequences failed", len(plan.works))
            self._fail(plan)
            return
        now_ns = self.clock_ns()
        duration_ns = now_ns - started_ns + self._drafting_ns
        self.device.step(
            duration_ns,
            [
                (
                    self._answer_of[work.sequence].job.meter,
                    max(1, whole(self._cost.work(work.n_new, work.sequence.n_computed, work.n_logits))),
                )
                for work in plan.works
            ],
        )
        self._report(plan, started_ns - begun_ns - self._drafting_ns, duration_ns)
        for work, outcome in zip(plan.works, outcomes, strict=True):
            self._take(work, outcome, now_ns)

    def _draft(self, sequence: SequenceState, n: int) -> Sequence[int]:
        """Draft tokens of an answer; none any more after its proposer failed once."""
        answer = self._answer_of[sequence]
        begun_ns = self.clock_ns()
        try:
            if answer.proposer is None and answer.may_draft and self.make_proposer is not None:
                running = self.scheduler.running  # not `self`: proposers must not keep the engine alive
                answer.proposer = self.make_proposer(
                    answer.sampler, lambda: sequence.blocks, lambda: len(running)
                )
            return [] if answer.proposer is None else answer.proposer.propose(sequence.tokens, n)
        except Exception:  # draft tokens are never required
            log.exception("a draft proposer failed; its answer continues without draft tokens")
            answer.proposer, answer.may_draft = None, False
            return []
        finally:
            self._drafting_ns += self.clock_ns() - begun_ns

    def _end_overdue(self) -> None:
        for sequence in self.scheduler.overdue(self.clock_ns(), self._least_ns_per_token):
            answer = self._answer_of.get(sequence)
            if answer is not None:
                for late in (answer, *answer.job.unforked):
                    self._end(late, Finish.DEADLINE)

    def _compute(self, plan: Plan) -> list[list[Outcome]]:
        """Compute a plan: for each work its answers' outcomes, none within a prompt, several if it will be forked."""
        logits_NV = compute(self.executor, plan)
        outcomes: list[list[Outcome]] = []
        row = 0
        for work in plan.works:
            n_logits = work.n_logits
            rows_MV = logits_NV[row : row + n_logits]
            row += n_logits
            answer = self._answer_of[work.sequence]
            answers = (answer, *answer.job.unforked) if n_logits else ()
            outcomes.append([self._choose(each, rows_MV, work.drafts) for each in answers])
        return outcomes

    def _choose(self, answer: Answer, logits_MV: NDArray[np.float32], drafts: Sequence[int]) -> Outcome:
        """Choose an answer's next tokens; non-finite logits and what is no token end only their own sequence."""
        try:
            sampler, vocab_size = answer.sampler, logits_MV.shape[1]
            outcome = sampler.verify(logits_MV, drafts) if drafts else [sampler(logits_MV[0])]
            return answer_tokens(outcome, most=len(drafts) + 1, vocab_size=vocab_size)
        except (FloatingPointError, ConstraintError, BadTokensError):
            log.exception("an answer cannot continue")
            return None

    def _fail(self, plan: Plan) -> None:
        for work in plan.works:
            answer = self._answer_of.get(work.sequence)
            if answer is not None:
                for each in (answer, *answer.job.unforked):
                    self._end(each, Finish.ERROR)

    def _take(self, work: Work, outcomes: list[Outcome], now_ns: int) -> None:
        sequence = work.sequence
        if not outcomes:
            self.scheduler.computed(sequence, work.n_tokens)
            return
        answer = self._answer_of[sequence]
        if len(outcomes) == 1:
            self._take_tokens(answer, work.n_tokens, outcomes[0], now_ns)
            return
        self.scheduler.computed(sequence, work.n_tokens)
        answers = [answer, *self._fork(answer, now_ns)]
        for each, outcome in zip(answers, outcomes, strict=True):
            self._take_tokens(each, 0, outcome, now_ns)

    def _fork(self, answer: Answer, now_ns: int) -> list[Answer]:
        """Start a job's other answers after its prompt was read."""
        others = answer.job.unforked
        for other in others:
            assert answer.sequence is not None
            other.sequence = self.scheduler.fork(answer.sequence, now_ns)
            self._answer_of[other.sequence] = other
        return others

    def _take_tokens(self, answer: Answer, n_computed: int, outcome: Outcome, now_ns: int) -> None:
        """Append an answer's new tokens, up to the one that ends it.

        All of them but the last were draft tokens, so that they are computed too, after the `n_computed` known tokens.
        """
        sequence = answer.sequence
        assert sequence is not None
        if outcome is None:
            self._end(answer, Finish.ERROR)
            return
        n_before = answer.n_tokens
        for chosen in outcome:
            answer.job.meter.token(now_ns)
            answer.tokens.append(chosen.token)
            if answer.n_tokens == 1:
                self._paid.add(answer.job.generation.salt, answer.job.generation.prompt)
            sequence.tokens.append(chosen.token)
            text, finish = self._read_token(answer, chosen.token)
            if finish is not None:
                break
            usage = answer.job.meter.read(now_ns)
            self._tell(answer.job, Event(text, usage, None, chosen, answer.index))
        n_new = answer.n_tokens - n_before
        self.scheduler.computed(sequence, n_computed + n_new - 1)
        self.stats.completion_tokens += n_new
        self.stats.n_accepted += n_new - 1
        if finish is not None:
            self._end(answer, finish, text, chosen)

    def _read_token(self, answer: Answer, token: int) -> tuple[str, Finish | None]:
        """The text that is final with a new token, and the reason if the answer ends with it."""
        generation = answer.job.generation
        may_stop = (
            not generation.ignore_stop_tokens or generation.constraint is not None
        )  # a constraint ends by a stop token
        is_stop_token = may_stop and token in self.served.tokenizer.stop_tokens
        if is_stop_token or token in generation.stop_token_ids:
            return "", Finish.STOP
        text = answer.text.push(token, may_stop=answer.n_tokens > generation.min_tokens)
        if answer.text.is_stopped:
            return text, Finish.STOP
        return text, Finish.LENGTH if answer.n_tokens == generation.max_tokens else None

    # -- ends, counters, listeners ------------------------------------------------------------------

    def abandon(self, job: Job) -> None:
        """End a job after the engine failed: only its listener is called."""
        for answer in job.open_answers:
            self._settle(answer, Finish.ERROR)

    def _end(self, answer: Answer, finish: Finish, text: str = "", chosen: AnswerToken | None = None) -> None:
        """End an answer and release what it holds; harmless if it has ended."""
        if answer.finish is not None:
            return
        if answer.sequence is not None:
            self.scheduler.end(answer.sequence, is_sound=finish is not Finish.ERROR)
            del self._answer_of[answer.sequence]
        self._settle(answer, finish, text, chosen)

    def _settle(
        self, answer: Answer, finish: Finish, text: str = "", chosen: AnswerToken | None = None
    ) -> None:
        """Finish an answer's counters and report its end."""
        answer.finish = finish
        job, now_ns = answer.job, self.clock_ns()
        if answer.tokens:
            self._paid.add(job.generation.salt, [*job.generation.prompt, *answer.tokens])
        is_last = not job.open_answers
        if is_last:
            self._queued.pop(job, None)
            job.meter.ended(now_ns)
        elif not job.running:
            self._pause(job, now_ns)
        self.stats.finished[finish] += 1
        if finish in (Finish.STOP, Finish.LENGTH):
            text += answer.text.finish()
        self._tell(job, Event(text, job.meter.read(now_ns), finish, chosen, answer.index, is_last))
        if is_last:
            job.forget_answers()

    def _meter_plan(self, plan: Plan, now_ns: int) -> None:
        """Meter a plan: started and preempted requests, and the cache that each request holds."""
        for sequence in plan.started:
            job = self._answer_of[sequence].job
            job.meter.started(now_ns)
            if not job.is_started:
                job.is_started = True
                del self._queued[job]
                job.meter.cached_tokens = self._cached_tokens(job)
                self.stats.prompt_tokens += len(job.generation.prompt)
                self.stats.cached_tokens += job.meter.cached_tokens
        for sequence in plan.preempted:
            job = self._answer_of[sequence].job
            if not job.running:
                self._pause(job, now_ns)
        for work in plan.works:  # what is computed does not wait, whatever the plan says
            self._answer_of[work.sequence].job.meter.started(now_ns)
        if self._holding_changes == self.pool.changes:
            return
        self._holding_changes = self.pool.changes
        for sequence in self.scheduler.running:
            job = self._answer_of[sequence].job
            holding = (sum(each.n_held for each in job.running), self.pool.sharing_changes)
            if job.holding != holding:
                job.holding = holding
                job.meter.holds_cache(self._held_bytes(job), now_ns)

    def _cached_tokens(self, job: Job) -> int:
        """The engine's count of a prompt's cached tokens, at most what this tenant has paid for."""
        generation = job.generation
        most = self._paid.most_cached(generation.salt, generation.prompt)
        return max(0, min(whole(job.sequence.n_cached), most))

    def _pause(self, job: Job, now_ns: int) -> None:
        job.meter.preempted(now_ns)
        job.holding = None

    def _held_bytes(self, job: Job) -> int:
        """Bytes of a job's blocks; of a block with several holders an equal share, rounded down.

        Executor and pool say so, which patches may touch: this is shown, and not billed.
        """
        size, holders = max(0, whole(self.executor.bytes_per_block)), self.pool.holders
        return sum(
            size // max(1, whole(holders(block))) for sequence in job.running for block in sequence.held
        )

    def _report(self, plan: Plan, scheduling_ns: int, duration_ns: int) -> None:
        n_tokens = sum([work.n_new for work in plan.works])
        if n_tokens >= LEAST_TOKENS_TIMED:
            pace = duration_ns / n_tokens
            self._least_ns_per_token = min(self._least_ns_per_token or pace, pace)
        self.stats.n_steps += 1
        if self.make_proposer is not None:
            self.stats.n_drafted += sum(len(work.drafts) for work in plan.works)
        self.stats.scheduling_ns += scheduling_ns
        if self.on_step is None:
            return
        try:
            self.on_step(StepReport(duration_ns, scheduling_ns, len(plan.works), n_tokens))
        except Exception:  # an observer's error must not end the engine
            log.exception("the step's observer failed")

    def _tell(self, job: Job, event: Event) -> None:
        try:
            job.listener(event)
        except Exception:  # a listener whose event loop has ended must not end other generations
            log.exception("a listener failed; its generation is cancelled")
            self._unheard.append(job)
