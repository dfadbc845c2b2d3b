"""Serving's answers to rows: rates of every contender, ratios to the peers, shares of the rooflines. Starts nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.peers import rates, targets
from benchmarks.peers.contenders import OURS, Contender
from benchmarks.peers.machine import Machine
from benchmarks.peers.models import PeerModel
from benchmarks.peers.quartiles import Quartiles
from benchmarks.peers.roofline import cache_read, prefill_flops, weights_read
from benchmarks.peers.turns import Answer
from benchmarks.peers.workloads import PREFILL
from benchmarks.report import Row

MIB = 1 << 20
B1, B16 = "decode B1", "decode B16"
LOADING = {"load_s": "loading", "resident_mib": "memory after loading"}


@dataclass
class Measured:
    """All that was found out about one model."""

    model: PeerModel
    contenders: dict[str, Contender] = field(default_factory=dict)
    loaded: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    first_loaded: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # ours, before anything was kept
    resident: dict[str, int | None] = field(default_factory=dict)  # bytes, after all workloads
    answers: dict[str, dict[str, list[Answer]]] = field(default_factory=dict)  # by workload and contender
    prompt_tokens: dict[str, list[list[int]]] = field(default_factory=dict)  # by workload and round
    prefix: dict[str, list[tuple[Answer, Answer]]] = field(default_factory=dict)  # miss and hit
    bandwidth: dict[str, float] = field(default_factory=dict)  # bytes/s, by format of weights
    gemm: float = 0.0  # FLOP/s of the faster of bf16's and fp32's products

    def peaks(self, machine: Machine) -> None:
        """Asks the machine again: the best of a run counts."""
        self.gemm = machine.gemm("bfloat16")
        for weights in targets.CLASSES:
            n_bytes = int(weights_read(self.model.config, weights))
            self.bandwidth[weights] = machine.bandwidth(n_bytes)

    def rates(self, task: str) -> dict[str, list[float]]:
        """Tokens per second by contender, round by round; those that gave no answer are left out, see `failures`."""
        return {
            name: [_rate(task, answer) for answer in answers]
            for name, answers in self.answers[task].items()
            if answers and name not in self.failures(task)
        }

    def peers_of(self, ours: str) -> list[str]:
        """The contenders of other engines whose weights are as wide; none for a peer."""
        own = self.contenders[ours]
        if own.engine != OURS:
            return []
        return [
            name
            for name, each in self.contenders.items()
            if each.engine != OURS and targets.CLASSES[each.weights] == targets.CLASSES[own.weights]
        ]

    def failures(self, task: str) -> dict[str, str]:
        """Rows of contenders whose answers give no rate, with the reason."""
        found: dict[str, str] = {}
        for name, answers in self.answers[task].items():
            try:
                for answer in answers:
                    _rate(task, answer)
            except ValueError as error:
                found[name] = str(error)
        return found


def _rate(task: str, answer: Answer) -> float:
    return rates.prefill_rate(answer, PREFILL[task]) if task in PREFILL else rates.decode_rate(answer)


def rows_of(found: Measured) -> list[Row]:
    """All rows but those of the answers' check."""
    rows: list[Row] = []
    for task in found.answers:
        by_name = found.rates(task)
        rows += ratio_rows(found, task, by_name)
        rows += [_rate_row(found, task, name, values) for name, values in by_name.items()]
        for name, why in found.failures(task).items():
            rows.append(Row(_name(found, task, name), None, "tokens/core-s", None, None, why))
    rows += roofline_rows(found)
    for name in found.prefix:
        rows += _own_rows(found, name)
    return rows + [row for name in found.loaded for row in load_rows(found, name)]


def ratio_rows(found: Measured, task: str, by_name: Mapping[str, Sequence[float]]) -> list[Row]:
    """Compare each of our formats with each peer's best one of the same width."""
    rows = []
    for ours, contender in found.contenders.items():
        if contender.engine != OURS or ours not in by_name:
            continue
        for engine in {each.engine: None for each in found.contenders.values() if each.engine != OURS}:
            names = [
                name
                for name in found.peers_of(ours)
                if found.contenders[name].engine == engine and name in by_name
            ]
            if names:
                peer = targets.best_peer(names, by_name)
                rows.append(
                    targets.ratio_row(
                        workload=task,
                        model=found.model.name,
                        ours=ours,
                        engine=engine,
                        peer=peer,
                        rates=by_name,
                    )
                )
    return rows


def roofline_rows(found: Measured) -> list[Row]:
    """Decode at batch 1 against the bandwidth, prompts against the GEMM peak; targets are ours alone."""
    rows: list[Row] = []
    for name, values in found.rates(B1).items() if B1 in found.answers else ():
        weights = found.contenders[name].weights
        bandwidth = found.bandwidth[weights]
        floors = [
            (weights_read(found.model.config, weights) + cache_read(found.model.config, context)) / bandwidth
            for context in _contexts(found, name)
        ]
        share = Quartiles.of([rate * floor for rate, floor in zip(values, floors, strict=True)])
        how = (
            f"{weights_read(found.model.config, weights) / MIB:.0f} MiB of active weights and the cache at "
            f"{bandwidth / 1e9:.1f} GB/s, measured at that size in this run"
        )
        is_ours = found.contenders[name].engine == OURS
        target = targets.DECODE_SHARE.get(weights) if is_ours else None
        rows.append(
            targets.share_row(f"serve, roofline of {name}: {found.model.name}, {B1}", share, target, how)
        )
    for task in PREFILL if found.gemm else ():
        for name, values in found.rates(task).items() if task in found.answers else ():
            contender = found.contenders[name]
            if targets.CLASSES[contender.weights] != targets.SIXTEEN_BITS:
                continue
            flops = prefill_flops(found.model.config, PREFILL[task])
            share = Quartiles.of([rate / PREFILL[task] * flops / found.gemm for rate in values])
            how = (
                f"{flops / 1e9:.1f} GFLOP at {found.gemm / 1e9:.0f} GFLOP/s, measured in this run: the faster of "
                "bf16's and fp32's products"
            )
            target = targets.PREFILL_SHARE if contender.engine == OURS else None
            rows.append(
                targets.share_row(
                    f"serve, roofline of {name}: {found.model.name}, {task}", share, target, how
                )
            )
    return rows


def _contexts(found: Measured, name: str) -> list[float]:
    answers = found.answers[B1][name]
    prompts = found.prompt_tokens[B1]
    return [rates.mean_context(answer, prompts[number]) for number, answer in enumerate(answers)]


def _rate_row(found: Measured, task: str, name: str, values: Sequence[float]) -> Row:
    speed = Quartiles.of(values)
    how = speed.text()
    answers = found.answers[task][name]
    if task not in PREFILL and task != B1:
        whole = Quartiles.of([rates.whole_rate(answer) for answer in answers])
        how += f" while all decode; {whole.text()} with prompts and arrivals"
    if "how" in answers[0]:
        how += f"; experts: {answers[0]['how']}"
    return Row(_name(found, task, name), round(speed.median, 1), "tokens/core-s", None, None, how)


def _name(found: Measured, task: str, contender: str) -> str:
    return f"serve, {contender}: {found.model.name}, {task}"


def _own_rows(found: Measured, name: str) -> list[Row]:
    """Rows of our engine alone: the saving of a shared prefix, and the part of a step outside the executor."""
    rows = []
    if pairs := found.prefix[name]:
        shares = [rates.first_token_s(hit) / rates.first_token_s(miss) for miss, hit in pairs]
        rows.append(
            targets.below_row(
                f"serve, first token on a prefix hit over a miss, {name}: {found.model.name}",
                Quartiles.of(shares),
                targets.PREFIX_SHARE,
                "512 of 528 prompt tokens are shared",
            )
        )
    answers = found.answers.get(B16, {}).get(name, [])
    if answers and all("executor_ns" in answer for answer in answers):
        step_ms = Quartiles.of([answer["busy_ns"] / answer["steps"] / 1e6 for answer in answers])
        outside = Quartiles.of([1 - answer["executor_ns"] / answer["busy_ns"] for answer in answers])
        rows.append(
            targets.below_row(
                f"serve, scheduling over a step, {name}: {found.model.name}, {B16}",
                Quartiles.of([answer["scheduling_ns"] / answer["busy_ns"] for answer in answers]),
                targets.SCHEDULING_SHARE,
                f"steps of {step_ms.median:.1f} ms; with sampling, events and counters {outside.text()} of a step "
                "are not the executor's",
            )
        )
    return rows


def load_rows(found: Measured, name: str) -> list[Row]:
    """Time and memory of one contender's load; ours against the best of the peers whose weights are as wide.

    For information, the first load of ours, and what memory has become after all workloads.
    """
    version = f"version {found.loaded[name]['version']}"
    rows = []
    for what, unit, digits in (("load_s", "s", 2), ("resident_mib", "MiB", 0)):
        figures = {each: round(_loading(answer, what), digits) for each, answer in found.loaded.items()}
        peers = {each: figures[each] for each in found.peers_of(name) if each in figures}
        label = f"serve, {LOADING[what]} {name}: {found.model.name}"
        rows.append(targets.least_row(label, figures[name], unit, peers, version))
    if name in found.first_loaded:
        first = round(_loading(found.first_loaded[name], "load_s"), 2)
        label = f"serve, first loading {name}: {found.model.name}"
        rows.append(Row(label, first, "s", None, None, "weights are packed and written for later loads"))
    resident = found.resident.get(name)
    if resident is not None:
        label = f"serve, memory after the workloads {name}: {found.model.name}"
        rows.append(Row(label, round(resident / MIB), "MiB", None, None, "resident, mapped files included"))
    return rows


def _loading(loaded: Mapping[str, Any], what: str) -> float:
    return loaded["resident_bytes"] / MIB if what == "resident_mib" else float(loaded[what])
