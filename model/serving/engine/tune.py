"""Find the fastest number of threads and cores for serving a model on this machine.

Each setting is measured in a separate process, which is bound to its cores before it loads the model, so that memory is
on the node of the cores that first touch it. Prints tokens per second of one answer and of several that decode
together, and of a prompt, and the options for `python -m model.serving.node`: the fewest threads that come within 3 %
of the best rate of several answers. With --json the lines go to stderr as they come. Nothing else should run meanwhile.
Run it again for other weights or another machine.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch

from model.checkpoint import CheckpointError
from model.config import ConfigError
from model.serving.engine.cores import Setting, allowed, bind, settings
from model.serving.executors.base import Executor, Part
from model.serving.executors.packed import Weights
from model.serving.executors.streamed import with_executor
from model.serving.metering.generation import EngineLimits
from model.serving.node.options import above, whole
from model.serving.node.served import open_served

CONTEXT = 128  # tokens behind each answer, and of the prompt
WITHIN = 0.03  # of the best rate: within it fewer threads are preferred
LEAST_STEPS, MEASURE_S = 5, 2.0  # of each figure


@dataclass(frozen=True)
class Trial:
    """Measured tokens per second of one setting."""

    setting: Setting
    one: float
    several: float
    prompt: float


def measured(
    model: str, home: Path | None, weights: Weights | None, batch: int, seconds: float, setting: Setting
) -> Trial:
    """Measure a setting in a fresh process: bind it, load the model and time steps, so many seconds per figure.

    Raises what `open_served` and `with_executor` raise, and ValueError.
    """
    bind(setting.cores)
    torch.set_num_threads(setting.n_threads)
    served = with_executor(open_served(model, home), EngineLimits(max_running=batch + 1), weights)
    executor = served.executor
    assert executor is not None
    n_blocks = -(-(CONTEXT + 1) // executor.block_tokens)
    if executor.n_blocks < (batch + 1) * n_blocks or served.transformer.config.max_context <= CONTEXT:
        raise ValueError(f"the model's cache has no room for {batch} answers of {CONTEXT + 1} tokens")
    tables = [range(i * n_blocks, (i + 1) * n_blocks) for i in range(batch + 1)]
    prompt = [i % served.transformer.config.vocab_size for i in range(CONTEXT)]
    for table in tables:
        executor.step([Part(prompt, 0, table, 0)])
    decoding = [Part([1], CONTEXT, table) for table in tables[:batch]]
    return Trial(
        setting,
        one=1 / step_s(executor, decoding[:1], seconds),
        several=batch / step_s(executor, decoding, seconds),
        prompt=CONTEXT / step_s(executor, [Part(prompt, 0, tables[-1])], seconds),
    )


def step_s(executor: Executor, parts: Sequence[Part], seconds: float) -> float:
    """Median time of the steps that fit into so many seconds."""
    taken: list[float] = []
    while len(taken) < LEAST_STEPS or sum(taken) < seconds:
        begun = time.perf_counter()
        executor.step(parts)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def best(trials: Sequence[Trial]) -> Trial:
    """The fewest threads whose rate of several answers is within 3 % of the best. Raises ValueError without trials."""
    enough = (1 - WITHIN) * max(trial.several for trial in trials)
    return min(
        (trial for trial in trials if trial.several >= enough), key=lambda trial: trial.setting.n_threads
    )


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    trials = []
    for setting in settings(allowed()):
        try:
            trials.append(_in_own_process(options, setting))
        except (CheckpointError, ConfigError, ValueError, BrokenProcessPool) as error:
            sys.stderr.write(f"error: {setting.options}: {error}\n")
            return 1
        progress = sys.stderr if options.json else sys.stdout
        progress.write(_line(trials[-1], options.batch) + "\n")
        progress.flush()
    chosen = best(trials)
    if options.json:
        rows = [
            {"options": t.setting.options, "one": t.one, "several": t.several, "prompt": t.prompt}
            for t in trials
        ]
        document = {"batch": options.batch, "tokens_per_s": rows, "chosen": chosen.setting.options}
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        sys.stdout.write(f"serve with: {chosen.setting.options}\n")
    return 0


def _in_own_process(options: argparse.Namespace, setting: Setting) -> Trial:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        asked = (options.model, options.home, options.weights, options.batch, options.seconds, setting)
        return pool.submit(measured, *asked).result()


def _line(trial: Trial, batch: int) -> str:
    return (
        f"{trial.setting.options}: {trial.one:.1f} tokens/s of one answer, {trial.several:.1f} of {batch}, "
        f"{trial.prompt:.0f} of a prompt of {CONTEXT}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.serving.engine.tune", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", required=True, help="the model, as for python -m model.serving.node")
    parser.add_argument("--home", type=Path, help="state folder (default: GAINSHARE_HOME, else .gainshare)")
    parser.add_argument(
        "--weights", choices=get_args(Weights), help="form of the weights, as the node's option"
    )
    parser.add_argument("--batch", type=whole(1), default=8, help="answers that decode together (default: 8)")
    parser.add_argument(
        "--seconds",
        type=above(0),
        default=MEASURE_S,
        help=f"time of each measurement (default: {MEASURE_S:g})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    return parser


if __name__ == "__main__":
    sys.exit(main())
