"""One training run from its first step, or from its newest checkpoint, to the end of its budget.

Observers get every event. The newest whole checkpoint stays however a run ends; Ctrl-C and SIGTERM save a new one
first.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from model.checkpoint import require_place
from model.data.batches.batch import Batch
from model.training.config.changes import changes, shape_changes
from model.training.config.run_config import RunConfig
from model.training.optim.precision import DTYPES, Precision
from model.training.report.events import (
    Evaluated,
    Event,
    Finished,
    Noticed,
    Observer,
    Saved,
    Started,
    Stepped,
)
from model.training.report.gemm_peak import measure_gemm_peak
from model.training.report.log import RunLog
from model.training.report.memory import memory_use
from model.training.report.pace import Pace
from model.training.report.tensorboard import TensorBoardLog
from model.training.report.throughput import Speedometer
from model.training.run.checkpoints import Checkpoints, Loaded
from model.training.run.data import TrainingData
from model.training.run.engine import Engine, engine_for
from model.training.run.errors import (
    NotFiniteError,
    NotFiniteWeightsError,
    RunExistsError,
    RunFailedError,
    SavedStateError,
)
from model.training.run.finite_weights import require_finite_weights
from model.training.run.folder import RunFolder
from model.training.run.same_tokenizer import require_same_tokenizer
from model.training.run.setup import machine_facts
from model.training.run.state import AVERAGE, MODEL, OBJECTIVE, OPTIMIZER, Progress
from model.training.run.stop_signals import StopSignals
from model.training.run.trainer import Update

BUDGET_SPENT = "the budget is spent"


@dataclass(frozen=True)
class Result:
    """Result of a run. `exit_status` is 0, or a signal's where one ended it."""

    step: int
    tokens: int
    reason: str
    exit_status: int
    loss: float | None  # of the last step
    held_out_loss: float | None  # the newest; of the averaged weights where there are some
    checkpoint: str | None
    model: str | None  # the trained model's folder, once the budget is spent
    log: str
    tensorboard: str  # the folder of its event files


def train(
    config: RunConfig,
    data: TrainingData,
    *,
    is_resumed: bool = False,
    stop_at: int | None = None,
    observers: Sequence[Observer] = (),
) -> Result:
    """Train to the end of the budget, to `stop_at` steps in all, or until a signal comes.

    Owns `data` and closes it. Raises RunExistsError where the output holds a run and `is_resumed` is false,
    SavedStateError, DamagedCheckpointError, FolderInUseError, FolderTakenError, ConfigError and what `engine_for` raises
    before the first step; afterwards RunFailedError, with the error that ended the run as its cause.
    """
    folder = RunFolder(config.output)
    with contextlib.ExitStack() as stack:
        stack.enter_context(data.stream)
        require_place(folder.model)
        if config.model.checkpoint is not None:
            require_same_tokenizer(config.model.checkpoint, data.files)
        stack.enter_context(folder.locked())
        signals = stack.enter_context(StopSignals())
        run, notices = _begin(config, folder, data, stack, is_resumed=is_resumed)
        run.observers = [
            *observers,
            RunLog(folder.log, step=run.progress.step),
            TensorBoardLog(folder.tensorboard, step=run.progress.step),
        ]
        for observer in run.observers:
            stack.push(_closing(observer))
        try:
            return run.run(notices, signals, stop_at)
        except Exception as error:
            raise run.failure(error) from error


def _begin(
    config: RunConfig,
    folder: RunFolder,
    data: TrainingData,
    stack: contextlib.ExitStack,
    *,
    is_resumed: bool,
) -> tuple[_Run, list[str]]:
    """Restore the newest checkpoint, or start at step 0; returns notices for the user. `stack` closes the engine.

    The checkpoint is read first: a run whose file leaves the precision open continues in the checkpoint's.
    """
    checkpoints = Checkpoints(folder.checkpoints, keep=config.saving.keep)
    if not is_resumed:
        _require_none(checkpoints, folder)
    checkpoints.remove_leftovers()
    loaded = checkpoints.newest()
    saved = None if loaded is None else _precision_of(loaded)
    engine = stack.enter_context(engine_for(config, data, saved=saved))
    run = _Run(config, folder, data, checkpoints, engine)
    notices = list(engine.notices)
    if engine.choice.notice is not None:
        notices.append(engine.choice.notice)
    if loaded is not None:
        notices += run.restore(loaded)
    elif is_resumed:
        notices.append(f"{folder.root} holds no checkpoint yet: starting at step 0")
    return run, notices


class _Run:
    """One run: its parts and its progress."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        data: TrainingData,
        checkpoints: Checkpoints,
        engine: Engine,
    ) -> None:
        self.config, self.folder, self.data = config, folder, data
        self.checkpoints, self.engine = checkpoints, engine
        self.observers: list[Observer] = []
        self.progress = Progress()
        self.saved: Path | None = None
        self.is_tried = False  # whether a step was made from the newest checkpoint
        self.batch: Batch | None = None  # of the step that is being made
        self.loss: float | None = None
        self.held_out: float | None = None
        self._pace = Pace(0.0, 0.0)

    def restore(self, loaded: Loaded) -> list[str]:
        """Restore a checkpoint; returns notices for the user."""
        self._require_same_shape(loaded)
        self.progress = self.engine.restore(loaded)
        self.data.stream.resume(loaded.snapshot.facts["stream"])
        self.saved = loaded.folder
        self.held_out = loaded.snapshot.facts["run"].get("held_out")
        return [
            *(f"skipped a damaged checkpoint: {message}" for message in loaded.damaged),
            *changes(loaded.snapshot.facts["run"], self._facts()),
        ]

    def run(self, notices: Sequence[str], signals: StopSignals, stop_at: int | None) -> Result:
        model = self.engine.config
        peak = measure_gemm_peak(self.engine.device, DTYPES[self.engine.choice.precision])
        speedometer = Speedometer(model, peak * self.engine.n_processes)
        self._tell(
            Started(
                step=self.progress.step,
                machine=self._machine(),
                config=self.config.to_dict(),
                parameters=model.total_parameters,
                active_parameters=model.active_parameters,
                peak_flops=peak,
                precision_reason=self.engine.choice.reason,
            )
        )
        for message in notices:
            self._tell(Noticed(self.progress.step, message))
        self._pace = Pace(self._share_done(), self.progress.seconds)
        reason = self._reason_to_stop(signals, stop_at)
        while reason is None:
            self._step(speedometer)
            reason = self._reason_to_stop(signals, stop_at)
            # Evaluated before it is saved: a resumed run knows what has been evaluated, and does not do it again.
            if _is_due(
                self.progress.step, self.config.evaluation.every_steps, is_last=reason == BUDGET_SPENT
            ):
                self._evaluate()
            if _is_due(self.progress.step, self.config.saving.every_steps) or reason is not None:
                self._save()
        return self._finish(reason, signals)

    def failure(self, error: Exception) -> RunFailedError:
        """The error to raise instead of `error`; writes the batch of a failed step to a file."""
        file = None
        if isinstance(error, NotFiniteError) and self.batch is not None:
            file = self.folder.bad_batch(self.progress.step + 1)
            with contextlib.suppress(OSError, SafetensorError):  # the disk may be full as well
                save_file(vars(self.batch.to("cpu")), file)
        is_written = file is not None and file.is_file()
        is_not_finite = isinstance(error, NotFiniteError | NotFiniteWeightsError)
        return RunFailedError(
            step=self.progress.step,
            saved=self.saved,
            output=self.folder.root,
            earlier=None if self.saved is None else self.checkpoints.before(self.saved),
            is_dead_end=is_not_finite and self.saved is not None and not self.is_tried,
            batch_file=file if is_written else None,
        )

    def _step(self, speedometer: Speedometer) -> None:
        began = time.perf_counter()
        moment = self.data.curriculum.at(self.progress.tokens)
        self.batch = next(self.data.stream)
        update = self.engine.update(
            self.batch,
            progress=self._share_done(),
            learning_rate_scale=moment.learning_rate_scale,
        )
        seconds = time.perf_counter() - began
        self.progress = Progress(
            step=self.progress.step + 1,
            tokens=self.data.stream.tokens_seen,
            targets=self.progress.targets + update.n_targets,
            seconds=self.progress.seconds + seconds,
        )
        self.loss = update.loss
        if self.saved is not None and not self.is_tried and not update.is_skipped:
            self.is_tried = True
            self.checkpoints.mark_good(self.saved)
        self._tell_step(update, self.batch, seconds, speedometer, stage=moment.stage.name)

    def _tell_step(
        self, update: Update, batch: Batch, seconds: float, speedometer: Speedometer, *, stage: str
    ) -> None:
        speed = speedometer.of(batch, seconds)
        share = self._share_done()
        memory = memory_use(self.engine.device)
        measured = self.engine.measured()
        if update.ahead_loss is not None:
            measured["ahead_loss"] = update.ahead_loss
        self._tell(
            Stepped(
                step=self.progress.step,
                tokens=self.progress.tokens,
                loss=update.loss,
                learning_rate=update.learning_rate,
                gradient_norm=update.gradient_norm,
                tokens_per_s=speed.tokens_per_s,
                mfu=speed.mfu,
                seconds=self.progress.seconds,
                progress=share,
                eta_s=self._pace.left_s(share, self.progress.seconds),
                memory_bytes=None if memory is None else memory.peak_bytes,
                padding_share=speed.padding_share,
                stage=stage if len(self.data.curriculum.stages) > 1 else None,
                is_skipped=update.is_skipped,
                metrics=measured,
            )
        )

    def _evaluate(self) -> None:
        """Compute the held-out loss, if there is data; of the averaged weights too, whose loss is then the result's.

        Raises NotFiniteWeightsError where the loss is not finite.
        """
        if not self.data.held_out:
            return
        for of_average in (False, True) if self.engine.has_average else (False,):
            began = time.perf_counter()
            scores = {
                kind: self.engine.held_out_loss(batches, of_average=of_average)
                for kind, batches in self.data.held_out.items()
            }
            targets = sum(score.targets for score in scores.values())
            self.held_out = sum(score.loss * score.targets for score in scores.values()) / targets
            self._tell(
                Evaluated(
                    step=self.progress.step,
                    tokens=self.progress.tokens,
                    loss=self.held_out,
                    losses={kind: score.loss for kind, score in scores.items()},
                    targets=targets,
                    seconds=time.perf_counter() - began,
                    is_average=of_average,
                )
            )
            if not math.isfinite(self.held_out):
                whose = "averaged weights" if of_average else "weights"
                raise NotFiniteWeightsError(
                    f"step {self.progress.step} left {whose} whose held-out loss is {self.held_out}"
                )

    def _save(self) -> None:
        began = time.perf_counter()
        snapshot = self.engine.capture(self.progress, self.data.stream.state(), run=self._facts())
        kept = (snapshot.tensors.get(part, {}) for part in (MODEL, AVERAGE, OBJECTIVE, OPTIMIZER))
        require_finite_weights(self.progress.step, *kept)
        self.is_tried = False
        self.saved = self.checkpoints.save(
            snapshot, self.engine.config, metadata=self._metadata(), files=self.data.files
        )
        self._tell(Saved(self.progress.step, self.saved, time.perf_counter() - began))

    def _finish(self, reason: str, signals: StopSignals) -> Result:
        """Leave the trained model ready to serve if the budget is spent, and say what the run came to."""
        is_done = reason == BUDGET_SPENT
        if is_done:
            self.engine.export(self.folder.model, metadata=self._metadata(), files=self.data.files)
        self._tell(Finished(self.progress.step, self.progress.tokens, reason))
        return Result(
            step=self.progress.step,
            tokens=self.progress.tokens,
            reason=reason,
            exit_status=signals.exit_status,
            loss=self.loss,
            held_out_loss=self.held_out,
            checkpoint=None if self.saved is None else str(self.saved),
            model=str(self.folder.model) if is_done else None,
            log=str(self.folder.log),
            tensorboard=str(self.folder.tensorboard),
        )

    def _reason_to_stop(self, signals: StopSignals, stop_at: int | None) -> str | None:
        if self._share_done() >= 1:
            return BUDGET_SPENT
        if signals.received is not None:
            return f"stopped by {signals.received.name}"
        if stop_at is not None and self.progress.step >= stop_at:
            return f"stopped after step {stop_at:,} as asked"
        return None

    def _share_done(self) -> float:
        done = self.progress
        return self.config.budget.share_done(steps=done.step, tokens=done.tokens, seconds=done.seconds)

    def _require_same_shape(self, loaded: Loaded) -> None:
        if differing := shape_changes(loaded.model, self.engine.config):
            raise SavedStateError(f"{loaded.folder} is of a model of another shape ({', '.join(differing)})")

    def _facts(self) -> dict[str, Any]:
        """State of the run, for a resumed run to compare with and to continue from."""
        return {
            "config": self.config.to_dict(),
            "machine": self._machine(),
            "held_out": self.held_out,
        }

    def _machine(self) -> dict[str, Any]:
        facts = machine_facts(self.engine.device, self.engine.choice.precision)
        return facts | {"processes": self.engine.n_processes}

    def _metadata(self) -> dict[str, Any]:
        done = self.progress
        return {
            "description": f"trained by `gainshare train`: {done.step:,} steps, {done.tokens:,} tokens",
            "steps": done.step,
            "tokens": done.tokens,
            "seed": self.config.seed,
            "stop_tokens": list(self.data.stop_tokens),
        }

    def _tell(self, event: Event) -> None:
        for observer in self.observers:
            observer.on(event)


def _precision_of(loaded: Loaded) -> Precision | None:
    """The precision in which a checkpoint was made; None where the checkpoint does not name a known one."""
    named = loaded.snapshot.facts["run"].get("machine", {}).get("precision")
    return next((precision for precision in DTYPES if precision == named), None)


def _require_none(checkpoints: Checkpoints, folder: RunFolder) -> None:
    """Raises RunExistsError where there are checkpoints: resuming was not asked for."""
    if found := checkpoints.folders():
        raise RunExistsError(f"{folder.root} already holds a run ({found[-1].name})")


def _closing(observer: Observer) -> Callable[..., None]:
    """Close the observer at the end; its OSError does not hide the error that ended the run."""

    def close(_kind: object, error: BaseException | None, _trace: object) -> None:
        try:
            observer.close()
        except OSError:
            if error is None:
                raise

    return close


def _is_due(step: int, every_steps: int, *, is_last: bool = False) -> bool:
    """Whether something is due at this step; with `every_steps` 0 never, not even at the end."""
    return every_steps > 0 and (is_last or step % every_steps == 0)
