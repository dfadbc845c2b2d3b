"""The engine answers as transformers does: the same tokens and log probabilities, whatever way the tokens come about.

Through prompts read whole and in chunks, cached decoding, prefix hits, preemption, answers side by side and
speculation; on plain torch and on the compiled kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor

from model import hf
from model.sampling import Chosen, SamplingSettings
from model.serving.executors.base import Executor, Part
from model.serving.executors.choice import default_executor
from model.serving.executors.native import NativeExecutor, supports
from model.serving.executors.plain_torch import TorchExecutor
from model.serving.metering.core import EngineCore
from model.serving.metering.generation import EngineLimits, Finish, Generation
from model.serving.metering.job import Job
from model.serving.node.served import tiny
from model.serving.speculation.choice import proposers
from model.smollm2.convert import GGUFModel
from model.transformer import Transformer
from tests.model.hf.hf_models import SHARED_FIELDS, build, load_theirs
from tests.model.serving.executors.executor_steps import logits_of

pytestmark = pytest.mark.slow

WINDOWED = "mixtral, windowed"
FAMILIES = ("llama", "mixtral", WINDOWED, "qwen3_moe", "deepseek_v3")
WINDOW = 20  # tokens: prompts are longer, and blocks behind it are given back
EXECUTORS = ("torch", "native")
N_TOKENS = 24
N_REPEATED = 20  # of a prompt, whose continuation is known by then
ATOL = 1e-4
SENTENCE = "The river had frozen over by the time they reached the village, and so the only way across was"
GREEDY = SamplingSettings(temperature=0, logprobs=5)
CONTEXT = 128


@cache
def models(family: str) -> tuple[Any, Transformer]:
    """A random model of transformers, and the same weights here."""
    fields = {"sliding_window": WINDOW} if family == WINDOWED else {}
    theirs = build(family.split(",")[0], seed=3, max_position_embeddings=CONTEXT, **fields)
    with TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        config, state = hf.load(Path(folder))
    return theirs, hf.to_transformer(config, state).requires_grad_(False).eval()


@cache
def prompts(n: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(22)  # no choice of experts hangs on less than 1e-3
    vocabulary = SHARED_FIELDS["vocab_size"]
    shared = torch.randint(vocabulary, (33,), generator=generator).tolist()
    return [
        [*shared, *torch.randint(vocabulary, (1 + 5 * i,), generator=generator).tolist()] for i in range(n)
    ]


@cache
def their_answer(family: str, prompt: tuple[int, ...]) -> tuple[list[int], Tensor]:
    """Greedy tokens of transformers with its own cache, and their log probabilities [N, V]."""
    theirs, _ = models(family)
    tokens, rows = list(prompt), []
    with torch.no_grad():
        out = theirs(torch.tensor([tokens]), use_cache=True)
        for _ in range(N_TOKENS):
            rows.append(out.logits[0, -1].log_softmax(-1))
            tokens.append(int(rows[-1].argmax()))
            out = theirs(torch.tensor([[tokens[-1]]]), cache=out.cache, use_cache=True)
    return tokens[len(prompt) :], torch.stack(rows)


def executor_of(kind: str, transformer: Transformer, n_blocks: int) -> Executor:
    if kind == "torch":
        return TorchExecutor(transformer, n_blocks)
    reason = supports(transformer.config)
    assert reason is None, reason  # every family here has a compiled form
    return NativeExecutor(transformer, n_blocks, weights="fp32")


@dataclass
class Asked:
    """Runs generations on a core of its own and keeps what was chosen, per answer."""

    core: EngineCore

    def answers(self, wanted: Sequence[Generation]) -> list[list[list[Chosen]]]:
        chosen: list[list[list[Chosen]]] = [[[] for _ in range(each.n)] for each in wanted]
        finishes: list[Finish | None] = []
        for i, generation in enumerate(wanted):

            def listen(event: Any, i: int = i) -> None:
                if event.chosen is not None:
                    chosen[i][event.answer].append(event.chosen)
                if event.finish is not None:
                    finishes.append(event.finish)

            self.core.add(Job(self.core.served, generation, listen, 0))
        while self.core.has_work:
            self.core.step()
        assert finishes == [Finish.LENGTH] * sum(each.n for each in wanted)
        return chosen


def asked_of(kind: str, family: str, limits: EngineLimits, n_blocks: int = 64) -> Asked:
    _, transformer = models(family)
    served = replace(tiny(), transformer=transformer)
    return Asked(EngineCore(served, limits, executor_of(kind, transformer, n_blocks)))


def greedy(prompt: Sequence[int], **fields: Any) -> Generation:
    return Generation(tuple(prompt), N_TOKENS, GREEDY, ignore_stop_tokens=True, **fields)


def assert_theirs(family: str, prompt: Sequence[int], chosen: Sequence[Chosen]) -> None:
    tokens, logprobs_NV = their_answer(family, tuple(prompt))
    assert [each.token for each in chosen] == tokens
    for each, logprobs_V in zip(chosen, logprobs_NV, strict=True):
        assert len(each.top) == 5
        for token, logprob in (*each.top, (each.token, each.logprob)):
            assert logprob == pytest.approx(float(logprobs_V[token]), abs=ATOL)


@pytest.fixture(params=[(kind, family) for kind in EXECUTORS for family in FAMILIES], ids="-".join)
def way(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    yield request.param


def test_a_prompt_read_whole_or_in_chunks(way: tuple[str, str]) -> None:
    prompt = prompts(1)[0]
    for step_tokens in (64, 7):
        asked = asked_of(*way, EngineLimits(max_running=2, step_tokens=step_tokens))
        ((chosen,),) = asked.answers([greedy(prompt)])
        assert_theirs(way[1], prompt, chosen)


def test_many_at_once_prompts_beside_answers_and_prefixes_found_again(way: tuple[str, str]) -> None:
    asked = asked_of(*way, EngineLimits(max_running=3, step_tokens=12))
    wanted = [greedy(prompt) for prompt in prompts(5)]
    for prompt, (chosen,) in zip(prompts(5), asked.answers(wanted), strict=True):
        assert_theirs(way[1], prompt, chosen)
    assert asked.core.stats.cached_tokens > 0
    before = asked.core.stats.cached_tokens
    again = asked.answers(wanted[1:])
    for prompt, (chosen,) in zip(prompts(5)[1:], again, strict=True):
        assert_theirs(way[1], prompt, chosen)
    assert asked.core.stats.cached_tokens - before >= 4 * 32


WHOLE_PASTS = [(kind, family) for kind in EXECUTORS for family in FAMILIES if family != WINDOWED]


@pytest.mark.parametrize("way", WHOLE_PASTS, ids="-".join)
def test_sequences_that_give_way_and_come_back(way: tuple[str, str]) -> None:
    asked = asked_of(*way, EngineLimits(max_running=3, step_tokens=40), n_blocks=7)
    wanted = [greedy(prompt, salt=str(i)) for i, prompt in enumerate(prompts(3))]
    for prompt, (chosen,) in zip(prompts(3), asked.answers(wanted), strict=True):
        assert_theirs(way[1], prompt, chosen)
    assert asked.core.scheduler.n_preemptions > 0


@pytest.mark.parametrize("kind", EXECUTORS)
def test_answers_that_gave_back_their_beginning_give_way_and_come_back(kind: str) -> None:
    """Two answers of 58 tokens in four blocks, which the first alone would fill if its window did not end."""
    asked = asked_of(kind, WINDOWED, EngineLimits(max_running=2, step_tokens=40), n_blocks=4)
    prompt = prompts(1)[0]
    (answers,) = asked.answers([greedy(prompt, n=2)])
    for chosen in answers:
        assert_theirs(WINDOWED, prompt, chosen)
    assert asked.core.scheduler.n_preemptions > 0


def test_answers_that_share_their_prompts_blocks(way: tuple[str, str]) -> None:
    asked = asked_of(*way, EngineLimits(max_running=3, step_tokens=40))
    prompt = prompts(2)[1]
    (answers,) = asked.answers([greedy(prompt, n=3)])
    for chosen in answers:  # greedy: all are the same
        assert_theirs(way[1], prompt, chosen)


def test_speculation_from_what_was_said_before(way: tuple[str, str]) -> None:
    asked = asked_of(*way, EngineLimits(max_running=2, step_tokens=40, max_drafts=4))
    asked.core.make_proposer = proposers()
    answer, _ = their_answer(way[1], tuple(prompts(1)[0]))
    repeated = [*prompts(1)[0], *answer[:20], *prompts(1)[0][-N_REPEATED:]]
    for prompt in (prompts(1)[0], repeated):
        ((chosen,),) = asked.answers([greedy(prompt)])
        assert_theirs(way[1], prompt, chosen)
    assert asked.core.stats.n_drafted > 0


class Scattered:
    """Block tables in no order, so that a past is nowhere a view."""

    def __init__(self, executor: Executor) -> None:
        self.executor, self.order = executor, list(reversed(range(executor.n_blocks)))
        self.order = [*self.order[::2], *self.order[1::2]]

    def logits(self, tokens: Sequence[int], chunks: Sequence[int]) -> Tensor:
        """Logits behind every token [S, V], read in chunks."""
        rows, past = [], 0
        for n in chunks:
            part = Part(tokens[past : past + n], past, self.order, n)
            rows.append(logits_of(self.executor, [part]))
            past += n
        return torch.cat(rows)


@pytest.mark.parametrize("chunks", [(60,), (1, 31, 3, 25), (17, *[1] * 43)], ids=["whole", "odd", "decoded"])
def test_logits_behind_every_token_over_scattered_blocks(
    way: tuple[str, str], chunks: tuple[int, ...]
) -> None:
    kind, family = way
    theirs, transformer = models(family)
    tokens = torch.randint(67, (60,), generator=torch.Generator().manual_seed(4)).tolist()
    with torch.no_grad():
        expected = theirs(torch.tensor([tokens])).logits[0]
    found = Scattered(executor_of(kind, transformer, 8)).logits(tokens, chunks)
    torch.testing.assert_close(found, expected, atol=ATOL, rtol=0)


class Ids:
    """A tokenizer that spells nothing."""

    stop_tokens: frozenset[int] = frozenset()

    def encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def encode_prompt(self, text: str) -> list[int]:
        return self.encode(text)

    def token_bytes(self, token: int) -> bytes:
        return b""


@pytest.mark.long
def test_smollm2_answers_as_transformers_does(smollm2_gguf: Path, tmp_path: Path) -> None:
    """Real weights in fp32: a prompt read in chunks, then again behind its cached prefix."""
    source = GGUFModel(smollm2_gguf)
    config, state = source.config, source.dense_state()
    hf.save(tmp_path, config, state)
    theirs = load_theirs(tmp_path)
    prompt = tuple(source.tokenizer().encode(SENTENCE).ids)
    tokens, rows = list(prompt), []
    with torch.no_grad():
        for _ in range(12):
            rows.append(theirs(torch.tensor([tokens])).logits[0, -1].log_softmax(-1))
            tokens.append(int(rows[-1].argmax()))
    served = replace(tiny(), transformer=hf.to_transformer(config, state).eval(), tokenizer=Ids())
    for kind in EXECUTORS:
        executor = executor_of(kind, served.transformer, 16)
        core = EngineCore(served, EngineLimits(step_tokens=17, max_running=2), executor)
        for _ in range(2):
            ((chosen,),) = Asked(core).answers([Generation(prompt, 12, GREEDY)])
            assert [each.token for each in chosen] == tokens[len(prompt) :]
            for each, logprobs_V in zip(chosen, rows, strict=True):
                assert each.logprob == pytest.approx(float(logprobs_V[each.token]), abs=ATOL)
        assert core.stats.cached_tokens == (len(prompt) - 1) // 16 * 16 > 0


def test_smollm2_continues_with_what_everybody_knows(smollm2_gguf: Path) -> None:
    """The quick one of its kind: real weights, one greedy token, on the engine's own choice of executor."""
    source = GGUFModel(smollm2_gguf)
    transformer = hf.to_transformer(source.config, source.dense_state()).eval()
    tokenizer = source.tokenizer()
    prompt = tuple(tokenizer.encode("The capital of France is Paris, and that of Italy is").ids)
    served = replace(tiny(), transformer=transformer, tokenizer=Ids())
    limits = EngineLimits(max_cache_bytes=64 << 20)
    core = EngineCore(served, limits, default_executor(transformer, limits))
    ((chosen,),) = Asked(core).answers([Generation(prompt, 1, GREEDY)])
    assert tokenizer.decode([chosen[0].token]) == " Rome"
