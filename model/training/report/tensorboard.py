"""A run's curves as TensorBoard event files.

Written by tensorboardX's synchronous event writer and not by its SummaryWriter, whose thread ends without an error
when the disk is full, and the run would wait for it for ever.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event as EventRecord
from tensorboardX.proto.event_pb2 import SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from model.training.report.events import Evaluated, Event, Stepped

FLUSH_EVERY_S = 10.0


class TensorBoardLog:
    """An observer that writes below `folder`; x is the step.

    `step` is the number of steps already done: TensorBoard is told to drop what an earlier start wrote about later
    steps, also one that was killed before its first checkpoint. Raises OSError where the disk refuses.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        is_first = step == 0 and not any(folder.iterdir())
        # Without the process id, two starts within one second would write to the same file.
        self._writer = EventsWriter(str(folder / "events"), f".{step:08d}.{os.getpid()}")
        self._flushed_at = time.monotonic()
        if not is_first:
            start = SessionLog(status=SessionLog.START)
            self._writer.write_event(EventRecord(wall_time=time.time(), step=step + 1, session_log=start))

    def on(self, event: Event) -> None:
        if isinstance(event, Stepped):
            self._write(event.step, _of_step(event))
        elif isinstance(event, Evaluated):
            name = "held_out_average" if event.is_average else "held_out"
            kinds = {f"{name}/{kind}": loss for kind, loss in event.losses.items()}
            self._write(event.step, {f"{name}/all": event.loss, **kinds})

    def close(self) -> None:
        self._writer.close()

    def _write(self, step: int, curves: dict[str, float]) -> None:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in curves.items()]
        self._writer.write_event(EventRecord(wall_time=time.time(), step=step, summary=Summary(value=values)))
        if time.monotonic() - self._flushed_at > FLUSH_EVERY_S:
            self._writer.flush()
            self._flushed_at = time.monotonic()


def _of_step(event: Stepped) -> dict[str, float]:
    curves = {
        "loss/train": event.loss,
        "optimiser/learning_rate": event.learning_rate,
        "optimiser/gradient_norm": event.gradient_norm,
        "speed/tokens_per_s": event.tokens_per_s,
        "speed/mfu": event.mfu,
        "speed/padding_share": event.padding_share,
    }
    curves |= {f"model/{name}": value for name, value in event.metrics.items()}
    if event.memory_bytes is not None:
        curves["speed/memory_bytes"] = float(event.memory_bytes)
    return curves
