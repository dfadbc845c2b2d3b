"""`python -m benchmarks.peers serve`: this stack's engine compared with transformers, vLLM, llama.cpp and ik_llama.cpp.

One model at a time: all contenders are loaded, each a process on the same core with one thread, and take turns in random
order on workloads that are the same for all of a round and new in the next. A contender that fails is left out, with a message.
Answers of the first round are then read by transformers in fp32.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.pairs.cores import choose_cores, judge_on
from benchmarks.peers import workloads
from benchmarks.peers.contenders import OURS, Contender, available, compile_all, load, load_first, start
from benchmarks.peers.environments import PEERS, interpreter, set_up_all
from benchmarks.peers.machine import Machine
from benchmarks.peers.making import make_models
from benchmarks.peers.models import QWEN3_MOE_186M, PeerModel, peers_home, random_model, smollm2
from benchmarks.peers.outputs import Regrets, output_row
from benchmarks.peers.serve_rows import Measured, rows_of
from benchmarks.peers.side import Side, driver
from benchmarks.peers.turns import Answer, Budget, take_turns
from benchmarks.peers.workloads import Workload
from benchmarks.report import MeasuringFailed, Row, say

RUN_TIMEOUT_S = 180.0
REFERENCE_TIMEOUT_S = 300.0
PREFIX_REPEATS = 5
CHECKED = {"prefill 512": 1, "decode B1": 1, "decode B8": 3}  # answers of each, of the first round


@dataclass(frozen=True)
class Plan:
    """Time and workloads of each model's rounds."""

    seconds: Mapping[str, float]
    tasks: tuple[str, ...]
    most_rounds: int


FULL = Plan({"qwen3-moe-186m": 200.0, "smollm2-135m": 230.0}, workloads.NAMES, most_rounds=7)
QUICK = Plan({"qwen3-moe-186m": 90.0}, ("prefill 128", "decode B1", "decode B8"), most_rounds=3)


def measure(*, quick: bool, setup: bool) -> list[Row]:
    """Rows of all models. Raises MeasuringFailed where nothing can be measured."""
    home, cores = peers_home(), choose_cores()
    if setup:
        set_up_all(home, say)
    pythons = available(home, say)
    plan = QUICK if quick else FULL
    models = [random_model(QWEN3_MOE_186M, home)]
    if not quick:
        models.append(smollm2(home))
    ggufs = sorted({contender.weights for contender in pythons if contender.reads_gguf})
    make_models(models, ggufs=ggufs, home=home, say=say)
    if setup:
        compile_all(models, pythons, core=cores.measuring, home=home, say=say)
    rows: list[Row] = []
    with judge_on(cores.judge):
        for model in models:
            rows += _model(model, pythons, plan, core=cores.measuring, home=home)
    return rows


def _model(
    model: PeerModel, pythons: Mapping[Contender, Path], plan: Plan, *, core: int, home: Path
) -> list[Row]:
    with Machine(core=core, home=home) as machine, ExitStack() as stack:
        found = Measured(model)
        found.peaks(machine)
        sides = _load_all(model, pythons, found, stack, core=core, home=home)
        found.answers = take_turns(
            sides,
            plan.tasks,
            lambda name, task, number: _run(sides[name], _drawn(model, task, number)),
            budget=Budget(plan.seconds[model.name], least=2, most=plan.most_rounds),
            order=random.Random(model.name),
            say=say,
        )
        found.prompt_tokens = {
            task: [
                [len(request.prompt) for request in _drawn(model, task, number).requests]
                for number in range(1, plan.most_rounds + 1)
            ]
            for task in plan.tasks
        }
        for name, side in sides.items():
            if name.startswith(OURS):
                found.prefix[name] = _prefix(side, model)
            found.resident[name] = _resident(side)
        found.peaks(machine)
    return [*rows_of(found), *_check(found, plan, core=core, home=home)]


def _load_all(
    model: PeerModel,
    pythons: Mapping[Contender, Path],
    found: Measured,
    stack: ExitStack,
    *,
    core: int,
    home: Path,
) -> dict[str, Side]:
    sides: dict[str, Side] = {}
    for contender, python in pythons.items():
        if contender.engine == OURS:
            found.first_loaded[contender.name] = load_first(contender, python, model, core=core, home=home)
        side = stack.enter_context(start(contender, python, core=core, home=home))
        try:
            loaded = load(side, contender, model)
        except MeasuringFailed as error:
            say(f"{contender.name} is left out: {error}")
            side.close()
            continue
        side.freeze()
        found.contenders[contender.name], found.loaded[contender.name] = contender, loaded
        sides[contender.name] = side
        say(f"{contender.name} ({loaded['version']}) has {model.name} after {loaded['load_s']:.1f} s")
    if not sides:
        raise MeasuringFailed("no engine could be loaded; see the messages above")
    return sides


def _drawn(model: PeerModel, task: str, number: int) -> Workload:
    return workloads.draw(task, model.config.vocab_size, f"{model.name} {number}")


def _run(side: Side, workload: Workload) -> Answer:
    return side.ask("run", timeout_s=RUN_TIMEOUT_S, name=workload.name, requests=workload.to_json())


def _prefix(side: Side, model: PeerModel) -> list[tuple[Answer, Answer]]:
    """Pairs of a prompt that is new and one that begins like it. A side that has failed gives none."""
    pairs: list[tuple[Answer, Answer]] = []
    side.thaw()
    try:
        for number in range(PREFIX_REPEATS):
            miss, hit = workloads.shared_prefix(model.config.vocab_size, f"{model.name} {number}")
            pairs.append((_run(side, miss), _run(side, hit)))
    except MeasuringFailed as error:
        say(f"no prefix was measured: {error}")
    finally:
        side.freeze()
    return pairs


def _resident(side: Side) -> int | None:
    """Bytes of its process now; None where it has ended."""
    side.thaw()
    try:
        bytes_now: int = side.ask("resident", timeout_s=RUN_TIMEOUT_S)["resident_bytes"]
    except MeasuringFailed as error:
        say(f"memory was not measured: {error}")
        return None
    side.freeze()
    return bytes_now


def _check(found: Measured, plan: Plan, *, core: int, home: Path) -> list[Row]:
    """One row a contender: its first round's answers, read by the reference."""
    python = interpreter(PEERS["transformers"], home)
    if python is None:
        say("answers were not checked: transformers is not set up")
        return []
    log = home / "logs" / "serve-reference.log"
    reference = Side("reference", argv=driver("transformers_serve", python), core=core, log=log)
    rows = []
    with reference:
        reference.ask("load", timeout_s=REFERENCE_TIMEOUT_S, path=str(found.model.hf), weights="fp32")
        for name, contender in found.contenders.items():
            sequences = _sequences(found, plan, name)
            if not sequences:
                continue
            regrets = reference.ask("regrets", timeout_s=REFERENCE_TIMEOUT_S, sequences=sequences)["regrets"]
            rows.append(output_row(name, found.model.name, contender.weights, Regrets.of(regrets)))
    return rows


def _sequences(found: Measured, plan: Plan, name: str) -> list[dict[str, list[int]]]:
    sequences = []
    for task, count in CHECKED.items():
        if task not in plan.tasks or not found.answers[task][name]:
            continue
        requests = _drawn(found.model, task, 1).requests[:count]
        answers = found.answers[task][name][0]["requests"]
        sequences += [
            {"prompt": list(request.prompt), "tokens": answer["tokens"]}
            for request, answer in zip(requests, answers, strict=False)  # the first few of them
        ]
    return sequences
