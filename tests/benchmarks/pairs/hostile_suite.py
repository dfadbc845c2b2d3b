"""A suite whose samples do what a script says, and pairs of it: the judge's real pairs, channels and sandboxes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.catalogue import SUITES
from benchmarks.catalogue.facts import Case, TimeLimits
from benchmarks.judging.cancellation import Cancellation
from benchmarks.pairs.cores import choose_cores
from benchmarks.pairs.nameless import NamelessCopies
from benchmarks.pairs.pace import Usual
from benchmarks.pairs.pair import Pair
from benchmarks.pairs.phases import Phases
from benchmarks.pairs.quiet import Quiet
from benchmarks.pairs.runner import PairRunner
from benchmarks.pairs.sample_log import SampleLog
from benchmarks.pairs.schedule import PairPlan
from benchmarks.pairs.seeds import Seeds
from benchmarks.pairs.side import SideSetup
from benchmarks.sandbox import SandboxLevel, best_level
from benchmarks.suites.base import Array, Problem, Suite, Tensors, TensorSpec, Tolerance

Step = Sequence[Any]
SMALL = 4  # numbers of a call that goes through the pipe
LARGE = 64 * 1024  # and of one that goes through sealed memory
SECRET = bytes(range(32))


class DoublingProblem(Problem):
    """The sample doubles single-precision numbers. Its configuration holds the script of the side that reads it."""

    def __init__(self, config: dict[str, int | str], numbers: int) -> None:
        self.config = config
        self.weights: Tensors = {}
        self.numbers = numbers
        self.outputs = (TensorSpec("y", "float32", (numbers,)),)
        self.floor_flops = 0

    def draw_inputs(self, rng: np.random.Generator, turn: int) -> Tensors:
        return {"x": rng.standard_normal(self.numbers, dtype=np.float32)}

    def exact(self, inputs: Tensors, turn: int) -> Tensors:
        doubled: Array = 2 * inputs["x"].astype(np.float64)
        return {"y": doubled}

    def plain(self, inputs: Tensors, turn: int) -> Tensors:
        return {"y": 2 * inputs["x"]}


@dataclass(frozen=True)
class HostileSuite(Suite):
    """Candidate's script is in its tree: see `script_trees`. Base's sample has no script and answers rightly."""

    numbers: int = field(default=SMALL, kw_only=True)

    @property
    def sample_module(self) -> Path:
        return Path(__file__).with_name("hostile_sample.py")

    def problem(self, shape: dict[str, int], rng: np.random.Generator) -> DoublingProblem:
        return DoublingProblem({}, self.numbers)


def hostile_suite(
    *, numbers: int = SMALL, call_ms: int = 2_000, memory_mib: int = 256, calls: int = 2
) -> HostileSuite:
    return HostileSuite(
        info=replace(SUITES["moe_forward"], minimum_effect_log_ppm=10_000),
        preset="tiny",
        cases=(Case("doubling", {"numbers": (numbers,)}, "doubling", "nothing"),),
        calls_per_side=calls,
        oracle_checks=1,
        tolerance=Tolerance(rms_ppb=10_000, peak_ppb=100_000),
        time_limits=TimeLimits(start_ms=60_000, load_ms=call_ms, call_ms=call_ms),
        memory_bytes=memory_mib << 20,
        numbers=numbers,
    )


def script_tree(folder: Path, *, load: Sequence[Step] = (), call: Sequence[Step] = ()) -> Path:
    """A tree whose only file is the script of the sample that has it."""
    model = folder / "model"
    model.mkdir(parents=True)
    (model / "script.json").write_text(json.dumps({"load": list(load), "call": list(call)}))
    for path in (folder, model):
        path.chmod(0o755)
    return folder


def script_trees(
    folder: Path, *, load: Sequence[Step] = (), call: Sequence[Step] = (), side: str = "candidate"
) -> dict[str, Path]:
    """Trees of both sides, of which `side` has the script."""
    return {
        name: script_tree(folder / name, load=load if name == side else (), call=call if name == side else ())
        for name in ("base", "candidate")
    }


@contextmanager
def hostile_pair(
    trees: Mapping[str, Path], suite: Suite, *, level: SandboxLevel | None = None, is_control: bool = False
) -> Iterator[Pair]:
    setup = SideSetup(suite, level or best_level(), choose_cores(), wall_s=120)
    plan = PairPlan(0, suite.cases[0].name, {"numbers": 1}, "base" if is_control else "candidate")
    with closing(NamelessCopies(trees)) as copies:
        pair = Pair(plan, copies, setup, Seeds.fresh()[1], Phases(), Quiet(), SampleLog(lambda _: None))
        try:
            pair.prepare()
            yield pair
        finally:
            pair.close()


def run_pairs(
    trees: Mapping[str, Path],
    suite: Suite,
    *,
    level: SandboxLevel | None = None,
    pairs: int = 1,
    has_controls: bool = False,
    seeds: Seeds | None = None,
    usual_ns: int | None = None,
) -> tuple[PairRunner, str]:
    """Take pairs as a judge does, until there are enough or an event ends them. The runner, and the log."""
    log: list[str] = []
    copies = NamelessCopies(trees)
    runner = PairRunner(
        copies,
        SideSetup(suite, level or best_level(), choose_cores(), wall_s=120),
        seeds or Seeds.fresh()[1],
        phases=Phases(),
        quiet=Quiet(),
        cancellation=Cancellation(),
        on_log=log.append,
        on_pair=lambda _: None,
    )
    case = suite.cases[0].name
    if usual_ns is not None:
        runner.measure_with(suite, {case: Usual(usual_ns, usual_ns)})
    with closing(copies):
        while not runner.has_ended and runner.measured[case] < pairs:
            runner.take_block({case: pairs}, controls=int(has_controls), old=0)
    return runner, "".join(log)
