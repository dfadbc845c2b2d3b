"""Runs many generations at once on one model: continuous batching on one worker thread.

The scheduler decides what each step computes, an executor computes it, samplers choose tokens from its logits; this
thread carries things between them and tells listeners. Knows nothing of HTTP, chat or prices.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from model.sampling import Chosen, ConstraintError
from model.serving.blocks import BlockPool
from model.serving.cost import StepCost
from model.serving.executor import Executor, Part
from model.serving.executors import default_executor
from model.serving.generation import (
    EngineLimits,
    EngineStoppedError,
    Event,
    Finish,
    Generation,
    Listener,
    NeverFitsError,
    QueueFullError,
)
from model.serving.job import Answer, Job
from model.serving.scheduler import Plan, Scheduler, Work
from model.serving.sequence import SequenceState
from model.serving.served import ServedModel
from model.serving.stats import EngineStats, StepReport
from model.serving.usage import DeviceMeter

__all__ = [
    "Engine",
    "EngineLimits",
    "EngineStoppedError",
    "Event",
    "Finish",
    "Generation",
    "Job",
    "Listener",
    "NeverFitsError",
    "QueueFullError",
]

log = logging.getLogger(__name__)
LEAST_TOKENS_TIMED = 32  # a step's pace says how fast prompts are read only if it reads some

Outcome = list[Chosen] | None  # an answer's next tokens; None where its logits or constraint are of no use


@dataclass
class Engine:
    """Start it, submit to it from any thread, stop it."""

    served: ServedModel
    limits: EngineLimits = field(default_factory=EngineLimits)
    on_death: Callable[[Exception], None] | None = (
        None  # told when the thread ends by a bug; nothing runs then
    )
    executor: Executor | None = None  # the fastest that there is for the model where None
    on_step: Callable[[StepReport], None] | None = None  # told after each step, on the engine's thread
    clock_ns: Callable[[], int] = time.monotonic_ns

    def __post_init__(self) -> None:
        self._executor = self.executor or default_executor(self.served.transformer, self.limits)
        self.device = DeviceMeter()
        self.stats = EngineStats()
        self._pool = BlockPool(self._executor.n_blocks, self._executor.block_tokens)
        self._scheduler = Scheduler(
            self._pool,
            max_running=self.limits.max_running,
            step_tokens=self.limits.step_tokens,
            max_drafts=self.limits.max_drafts,
        )
        self._cost = StepCost.of(self.served.transformer.config)
        self._answer_of: dict[SequenceState, Answer] = {}
        self._least_ns_per_token = 0.0  # the fastest that a prompt was read
        self._arrived: list[Job] = []
        self._leaving: list[Job] = []
        self._changed = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Ends all generations as cancelled and the thread with them."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        self._thread.join(timeout_s)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def n_waiting(self) -> int:
        return len(self._arrived) + len(self._scheduler.waiting)

    @property
    def n_running(self) -> int:
        return len(self._scheduler.running)

    @property
    def pool(self) -> BlockPool:
        """To look at, not to change: blocks held, idle and evicted."""
        return self._pool

    @property
    def n_preemptions(self) -> int:
        return self._scheduler.n_preemptions

    def submit(self, generation: Generation, listener: Listener) -> Job:
        """Queues a generation.

        Raises QueueFullError, EngineStoppedError, and ValueError where it cannot fit the context or (NeverFitsError)
        the cache.
        """
        length = len(generation.prompt) + generation.max_tokens
        if length > self.served.max_context:
            raise ValueError(f"prompt and max_tokens exceed the context of {self.served.max_context} tokens")
        self._scheduler.check_fits(length)
        job = Job(self.served, generation, listener, self.clock_ns())
        with self._changed:
            if self._is_stopping or not self._thread.is_alive():
                raise EngineStoppedError("the engine is shutting down")
            self._check_room(generation.owner)
            self._arrived.append(job)
            self._changed.notify()
        return job

    def _check_room(self, owner: str) -> None:
        if self.n_waiting >= self.limits.max_waiting:
            raise QueueFullError(f"{self.n_waiting} requests are waiting already")
        if not owner:
            return
        owners = [job.generation.owner for job in self._arrived]
        owners += [sequence.owner for sequence in list(self._scheduler.waiting)]
        if owners.count(owner) >= self.limits.max_waiting_per_owner:
            raise QueueFullError(f"{owners.count(owner)} requests of yours are waiting already")

    def cancel(self, job: Job) -> None:
        """Ends a generation before the next step; harmless when it has already ended."""
        with self._changed:
            job.is_cancelled = True
            self._leaving.append(job)
            self._changed.notify()

    # -- on the engine's thread ---------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._loop()
        except Exception as error:  # nobody may wait for a thread that is gone
            log.exception("the engine's thread failed")
            with self._changed:
                self._is_stopping = True
            for answer in self._open_answers():
                self._finish(answer, Finish.ERROR)
            if self.on_death is not None:
                self.on_death(error)

    def _loop(self) -> None:
        while True:
            with self._changed:
                while not (self._arrived or self._leaving or self._scheduler.has_work or self._is_stopping):
                    self._changed.wait()
                arrived, self._arrived = self._arrived, []
                leaving, self._leaving = self._leaving, []
                for job in arrived:
                    self._answer_of[job.sequence] = job.answers[0]
                    self._scheduler.add(job.sequence, self.clock_ns())
            for job in leaving:
                self._end_job(job, Finish.CANCELLED)
            if self._is_stopping:
                for answer in self._open_answers():
                    self._end(answer, Finish.CANCELLED)
                return
            self._end_overdue()
            if self._scheduler.has_work:
                self._step()

    def _open_answers(self) -> list[Answer]:
        jobs = dict.fromkeys([*(answer.job for answer in self._answer_of.values()), *self._arrived])
        return [answer for job in jobs for answer in job.open_answers]

    def _end_overdue(self) -> None:
        for sequence in self._scheduler.overdue(self.clock_ns(), self._least_ns_per_token):
            answer = self._answer_of.get(sequence)
            if answer is not None:
                for late in (answer, *answer.job.unforked):
                    self._end(late, Finish.DEADLINE)

    def _step(self) -> None:
        begun_ns = self.clock_ns()
        plan = self._scheduler.schedule(begun_ns)
        started_ns = self.clock_ns()
        self._meter_plan(plan, started_ns)
        works = [
            self._cost.work(work.n_tokens + len(work.drafts), work.sequence.n_computed, work.n_logits)
            for work in plan.works
        ]
        try:
            outcomes = self._compute(plan)
        except Exception:  # whatever a patched stack raises must not end the node
            log.exception("a step with %d sequences failed", len(plan.works))
            self._fail(plan)
            return
        now_ns = self.clock_ns()
        meters = [self._answer_of[work.sequence].job.meter for work in plan.works]
        self.device.step(now_ns - started_ns, list(zip(meters, works, strict=True)))
        self._report(plan, started_ns - begun_ns, now_ns - started_ns)
        for work, outcome in zip(plan.works, outcomes, strict=True):
            self._take(work, outcome, now_ns)

    def _compute(self, plan: Plan) -> list[list[Outcome]]:
        """For each work the outcomes of its answers: none within a prompt, several where it is about to be forked."""
        for source, target in plan.copies:
            self._executor.copy_block(source, target)
        parts = [
            Part(work.tokens, work.sequence.n_computed, work.sequence.blocks, work.n_logits)
            for work in plan.works
        ]
        logits_NV = self._executor.step(parts)
        outcomes: list[list[Outcome]] = []
        row = 0
        for work, part in zip(plan.works, parts, strict=True):
            rows_MV = logits_NV[row : row + part.n_logits]
            row += part.n_logits
            answer = self._answer_of[work.sequence]
            answers = [answer, *answer.job.unforked] if part.n_logits else []
            outcomes.append([self._choose(each, rows_MV, work.drafts) for each in answers])
        return outcomes

    def _choose(self, answer: Answer, logits_MV: Tensor, drafts: Sequence[int]) -> Outcome:
        """An answer's next tokens; logits that are not finite end only the sequence that they belong to."""
        try:
            if drafts:
                return answer.sampler.verify(logits_MV, drafts)
            return [answer.sampler(logits_MV[0])]
        except (FloatingPointError, ConstraintError):
            log.exception("an answer cannot go on")
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
            self._scheduler.computed(sequence, work.n_tokens)
            return
        answer = self._answer_of[sequence]
        if len(outcomes) == 1:
            self._take_tokens(answer, work.n_tokens, outcomes[0], now_ns)
            return
        self._scheduler.computed(sequence, work.n_tokens)
        answers = [answer, *self._fork(answer, now_ns)]
        for each, outcome in zip(answers, outcomes, strict=True):
            self._take_tokens(each, 0, outcome, now_ns)

    def _fork(self, answer: Answer, now_ns: int) -> list[Answer]:
        """The prompt is read: its other answers begin."""
        others = answer.job.unforked
        for other in others:
            assert answer.sequence is not None
            other.sequence = self._scheduler.fork(answer.sequence, now_ns)
            self._answer_of[other.sequence] = other
        return others

    def _take_tokens(self, answer: Answer, n_computed: int, outcome: Outcome, now_ns: int) -> None:
        """Appends an answer's new tokens, up to the one that ends it.

        Of those, all but the last were drafts, so that with the `n_computed` known tokens they are computed as well.
        """
        sequence = answer.sequence
        assert sequence is not None
        if outcome is None:
            self._end(answer, Finish.ERROR)
            return
        events: list[tuple[Chosen, str, Finish | None]] = []
        for chosen in outcome:
            answer.job.meter.token(now_ns)
            answer.n_tokens += 1
            sequence.tokens.append(chosen.token)
            text, finish = self._read_token(answer, chosen.token)
            events.append((chosen, text, finish))
            if finish is not None:
                break
        self._scheduler.computed(sequence, n_computed + len(events) - 1)
        self.stats.completion_tokens += len(events)
        self.stats.n_accepted += len(events) - 1
        for chosen, text, finish in events:
            if finish is not None:
                self._end(answer, finish, text, chosen)
            else:
                usage = answer.job.meter.read(now_ns)
                self._tell(answer.job, Event(text, usage, None, chosen, answer.index))

    def _read_token(self, answer: Answer, token: int) -> tuple[str, Finish | None]:
        """The text that a new token settles, and whether the answer ends with it."""
        generation, constraint = answer.job.generation, answer.sampler.constraint
        if token in self.served.tokenizer.stop_tokens and not generation.ignore_stop_tokens:
            return "", Finish.STOP
        text = answer.text.push(token)
        if answer.text.is_stopped or (constraint is not None and constraint.is_finished):
            return text, Finish.STOP
        return text, Finish.LENGTH if answer.n_tokens == generation.max_tokens else None

    # -- ends, counters, listeners ------------------------------------------------------------------

    def _end_job(self, job: Job, finish: Finish) -> None:
        for answer in job.open_answers:
            self._end(answer, finish)

    def _end(self, answer: Answer, finish: Finish, text: str = "", chosen: Chosen | None = None) -> None:
        """Ends an answer and gives back what it holds; harmless when it has ended."""
        if answer.finish is not None:
            return
        if answer.sequence is not None:
            self._scheduler.end(answer.sequence, is_sound=finish is not Finish.ERROR)
            del self._answer_of[answer.sequence]
        self._finish(answer, finish, text, chosen)

    def _finish(self, answer: Answer, finish: Finish, text: str = "", chosen: Chosen | None = None) -> None:
        """Settles an answer's counters and tells of its end."""
        answer.finish = finish
        job, now_ns = answer.job, self.clock_ns()
        is_last = not job.open_answers
        if is_last:
            job.meter.ended(now_ns)
        elif not job.running:
            self._pause(job, now_ns)
        self.stats.finished[finish] += 1
        if finish in (Finish.STOP, Finish.LENGTH):
            text += answer.text.finish()
        self._tell(job, Event(text, job.meter.read(now_ns), finish, chosen, answer.index, is_last))

    def _meter_plan(self, plan: Plan, now_ns: int) -> None:
        """Who started, who gave way, and how much cache each request holds from now on."""
        for sequence in plan.started:
            job = self._answer_of[sequence].job
            job.meter.started(now_ns)
            if not job.is_started:
                job.is_started = True
                job.meter.cached_tokens = sequence.n_cached
                self.stats.prompt_tokens += len(job.generation.prompt)
                self.stats.cached_tokens += sequence.n_cached
        for sequence in plan.preempted:
            job = self._answer_of[sequence].job
            if not job.running:
                self._pause(job, now_ns)
        for sequence in self._scheduler.running:
            job = self._answer_of[sequence].job
            holding = (sum(len(each.blocks) for each in job.running), self._pool.sharing_changes)
            if job.holding != holding:
                job.holding = holding
                job.meter.holds_cache(self._held_bytes(job), now_ns)

    def _pause(self, job: Job, now_ns: int) -> None:
        job.meter.preempted(now_ns)
        job.holding = None

    def _held_bytes(self, job: Job) -> int:
        """Its blocks' bytes; of a block with several holders an equal share, rounded down."""
        size, holders = self._executor.bytes_per_block, self._pool.holders
        return sum(size // holders(block) for sequence in job.running for block in sequence.blocks)

    def _report(self, plan: Plan, scheduling_ns: int, duration_ns: int) -> None:
        n_tokens = sum(work.n_tokens + len(work.drafts) for work in plan.works)
        if n_tokens >= LEAST_TOKENS_TIMED:
            pace = duration_ns / n_tokens
            self._least_ns_per_token = min(self._least_ns_per_token or pace, pace)
        self.stats.n_steps += 1
        self.stats.n_drafted += sum(len(work.drafts) for work in plan.works)
        self.stats.scheduling_ns += scheduling_ns
        if self.on_step is None:
            return
        try:
            self.on_step(StepReport(duration_ns, scheduling_ns, len(plan.works), n_tokens))
        except Exception:  # whoever watches must not end what is watched
            log.exception("the step's observer failed")

    def _tell(self, job: Job, event: Event) -> None:
        try:
            job.listener(event)
        except Exception:  # a listener whose event loop is gone must not end the others' generations
            log.exception("a listener failed; its generation is cancelled")
            if not job.is_cancelled:
                self.cancel(job)
