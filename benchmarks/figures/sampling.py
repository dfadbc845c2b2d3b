"""Cost of choosing tokens, and the draft tokens of lookups: `python -m benchmarks.figures.sampling [--json]`, 30 seconds on one core.

Draws are timed over a vocabulary of SmolLM2's size; lookups follow texts that are at hand on any machine, drafts
verified by the text itself, so those figures are counts that no machine changes. What speculation saves in one is
`python -m benchmarks.peers serve`'s to say.
"""

from __future__ import annotations

import argparse
import inspect
import json
import random
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.commands import ends_plainly
from benchmarks.report import Report, Row
from model.checkpoint import models_home
from model.command_errors import CommandParser
from model.sampling import Sampler, SamplingSettings
from model.serving.api.tokenizer import TOKENIZER_FILE, BPETokenizer, ByteTokenizer, Tokenizer
from model.serving.engine.constrained import JSONGrammars
from model.serving.executors.base import Executor, Part
from model.serving.executors.choice import default_executor
from model.serving.metering.generation import EngineLimits
from model.serving.node.served import load_served
from model.serving.speculation.choice import proposers
from model.serving.speculation.prompt_lookup import LookupProposer
from model.serving.speculation.proposer import COST_PER_DRAFT, matching

LICENCE = Path(__file__).resolve().parents[2] / "LICENSE"
MODEL = "smollm2-moe"
VOCABULARY = 49_152
REPEATS = 200
MOST_DRAFTS, PROMPT_TOKENS, TEXT_TOKENS = 8, 64, 2500
GREEDY_TARGET_MS, SAMPLED_TARGET_MS = 0.3, 1.0
LEAST_SPEED_UP = 0.99  # where draft tokens are rejected, trying costs this much at most
STOP_TOKEN = 2  # SmolLM2's
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "plain sampling": {},
    "top-k 50": {"top_k": 50},
    "top-p 0.9": {"top_p": 0.9},
    "top-k 50, top-p 0.9, min-p 0.05": {"top_k": 50, "top_p": 0.9, "min_p": 0.05},
    "greedy, 1,000 tokens penalised": {"temperature": 0.0, "repetition_penalty": 1.1},
    "greedy, 5 log probabilities": {"temperature": 0.0, "logprobs": 5},
}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def measure(repeats: int = REPEATS) -> list[Row]:
    """All rows. Times are medians."""
    tokenizer = _tokenizer()
    rows = [
        *_draw_rows(repeats),
        *_constraint_rows(tokenizer or ByteTokenizer(), repeats),
        *_lookup_times(repeats),
    ]
    if tokenizer is None:
        how = f"needs {MODEL}: run `gainshare model fetch smollm2`"
        return [*rows, Row("lookup", None, "tokens/step", None, None, how)]
    transformer = load_served(MODEL).transformer
    executor = default_executor(transformer, EngineLimits(max_running=1))
    return [*rows, *_lookup_rows(tokenizer), *cost_rows(executor, transformer.config.vocab_size)]


def _draw_rows(repeats: int) -> Iterator[Row]:
    generator = torch.Generator().manual_seed(1)
    for spread, about in ((1.0, "flat"), (4.0, "peaked")):
        logits_V = (spread * torch.randn(VOCABULARY, generator=generator)).numpy()
        for name, settings in SETTINGS.items():
            sampler = Sampler(SamplingSettings(seed=1, **settings), prompt=range(1000))
            milliseconds = _median_ms(partial(sampler, logits_V), repeats)
            most = GREEDY_TARGET_MS if settings.get("temperature") == 0 else SAMPLED_TARGET_MS
            how = f"normal logits of spread {spread:g}, {VOCABULARY} tokens, median of {repeats}"
            yield Row(
                f"draw, {name}, {about}", milliseconds, "ms", f"<= {most} ms", milliseconds <= most, how
            )


def _constraint_rows(tokenizer: Tokenizer, repeats: int) -> Iterator[Row]:
    started = time.perf_counter()
    grammars = JSONGrammars(tokenizer, VOCABULARY)
    yield Row("index a vocabulary", (time.perf_counter() - started) * 1e3, "ms", None, None, "once per model")
    compiling_ms = _median_ms(lambda: grammars.json_schema(SCHEMA), repeats)
    yield Row("compile a schema", compiling_ms, "ms", None, None, "two properties")
    constraint = grammars.json_schema(SCHEMA)
    for token in tokenizer.encode('{"name": "A'):
        constraint.accept(token)
    how = "inside a string, where most tokens may follow"
    yield Row("mask a vocabulary", _median_ms(constraint.mask, repeats), "ms", None, None, how)
    token = tokenizer.encode("a")[0]
    asking_ms = _median_ms(lambda: constraint.allows(token), repeats)
    yield Row("ask about one token", asking_ms, "ms", None, None, how)


def _lookup_rows(tokenizer: Tokenizer) -> Iterator[Row]:
    records = [
        {"id": i, "name": f"user{i}", "tags": ["a", "b"], "score": i * 7 % 13, "is_new": i % 5 == 0}
        for i in range(300)
    ]
    texts = {
        "JSON records": json.dumps(records),
        "Python's shutil.py": inspect.getsource(shutil),
        "the licence": LICENCE.read_text(encoding="utf-8"),
    }
    for name, text in texts.items():
        per_step, speed_up = follow(tokenizer.encode(text)[:TEXT_TOKENS])
        how = f"at most {MOST_DRAFTS} drafts, {TEXT_TOKENS} tokens of text at most, verified by the text"
        yield Row(f"lookup in {name}", per_step, "tokens/step", None, None, how)
        how = f"each draft taken to cost {COST_PER_DRAFT} of a step"
        yield Row(
            f"lookup in {name}: speed-up",
            speed_up,
            "x",
            f">= {LEAST_SPEED_UP}",
            speed_up >= LEAST_SPEED_UP,
            how,
        )


def _lookup_times(repeats: int) -> Iterator[Row]:
    text = [token % 997 for token in range(0, 7 * TEXT_TOKENS, 7)]
    started = time.perf_counter()
    proposer = LookupProposer()
    proposer.propose(text, 1)
    per_token_us = (time.perf_counter() - started) / len(text) * 1e6
    yield Row("lookup: index", per_token_us, "us/token", None, None, f"a prompt of {len(text)} tokens")
    proposing_us = _median_ms(partial(proposer.propose, text, MOST_DRAFTS), repeats) * 1e3
    yield Row("lookup: propose", proposing_us, "us", None, None, f"{MOST_DRAFTS} drafts, no new token")


def cost_rows(executor: Executor, vocab_size: int, rounds: int = 12) -> Iterator[Row]:
    """Cost of verifying draft tokens in a step of one answer; the least processor time of the rounds, which take turns."""
    chooser = random.Random(1)
    blocks = range(-(-(PROMPT_TOKENS + 1 + MOST_DRAFTS) // executor.block_tokens))

    def step_s(n_tokens: int, past: int) -> float:
        new = [chooser.randrange(vocab_size) for _ in range(n_tokens)]
        started = time.process_time()
        executor.step([Part(new, past, blocks, 1 if past == 0 else n_tokens)])
        return time.process_time() - started

    step_s(PROMPT_TOKENS, 0)
    numbers = (0, 1, 2, 4)
    turns = [[step_s(1 + n, PROMPT_TOKENS) for n in numbers] for _ in range(rounds)]
    plain_s, *least_s = (min(times) for times in zip(*turns, strict=True))
    for n_drafts, seconds in zip(numbers[1:], least_s, strict=True):
        cost = (seconds - plain_s) / plain_s / n_drafts
        how = f"{type(executor).__name__}, {PROMPT_TOKENS} tokens of past, random drafts; a step takes {plain_s * 1e3:.1f} ms"
        yield Row(f"cost of each of {n_drafts} drafts", cost, "steps", None, None, how)


def follow(text: Sequence[int]) -> tuple[float, float]:
    """Tokens per step, and tokens per time of one plain step, where lookups propose a text's tokens."""
    proposer = proposers()(Sampler(SamplingSettings()), list, lambda: 1)
    length, steps, time_spent = PROMPT_TOKENS, 0, 0.0
    while length < len(text):
        drafts = proposer.propose(text[:length], MOST_DRAFTS)
        length += matching(drafts, text[length:]) + 1
        steps += 1
        time_spent += 1 + COST_PER_DRAFT * len(drafts)
    n_tokens = length - PROMPT_TOKENS
    return n_tokens / steps, n_tokens / time_spent


def _tokenizer() -> Tokenizer | None:
    file = models_home() / MODEL / TOKENIZER_FILE
    return BPETokenizer(file, [STOP_TOKEN]) if file.exists() else None


def _median_ms(work: Callable[[], object], repeats: int) -> float:
    work()
    times: list[float] = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e3


@ends_plainly
def main(arguments: Sequence[str] | None = None) -> int:
    parser = CommandParser(prog="python -m benchmarks.figures.sampling", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    Report.here("python -m benchmarks.figures.sampling", measure()).show(as_json=options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
