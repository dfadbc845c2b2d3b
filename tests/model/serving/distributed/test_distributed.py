"""Real ranks, as processes: they answer as one process does, and a lost one ends the job with a clear error.

What is split how is `test_shard.py`'s subject; here there are few and large tests, since each
rank has to import torch.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import models, pre_tokenizers

from model.checkpoint import save_checkpoint
from model.parallel.mesh.mesh import MeshError
from model.parallel.mesh.processes import RankMissingError
from model.parallel.mesh.workers import LOST_ANOTHER, Workers
from model.sampling import SamplingSettings
from model.serving.api.chat import TEMPLATE_FILE, TINY_TEMPLATE
from model.serving.api.tokenizer import TOKENIZER_FILE, byte_alphabet
from model.serving.distributed.executor import DistributedExecutor, start
from model.serving.distributed.shard import Degrees
from model.serving.engine.blocks import GONE
from model.serving.engine.expert_load import expert_load_of
from model.serving.executors.base import Part
from model.serving.executors.choice import BLOCK_TOKENS
from model.serving.executors.plain_torch import TorchExecutor
from model.serving.metering.engine import Engine, EngineLimits, Event, Generation
from model.serving.node.served import ServedModel, tiny
from tests.model.random_models import SMALL, random_transformer, relative_error
from tests.model.serving.engine.paged_steps import served_mix
from tests.model.serving.executors.executor_steps import logits_of

LIMITS = EngineLimits(max_cache_bytes=1 << 20)
WAIT_S = 120  # on a busy machine
PATIENT: dict[str, Any] = {"limits": LIMITS, "threads": 1, "step_timeout_s": 300.0}
pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]


@contextmanager
def ranks(
    model: str, degrees: Degrees, **changes: Any
) -> Iterator[tuple[ServedModel, DistributedExecutor, list[Exception]]]:
    lost: list[Exception] = []
    served, executor = start(model, None, degrees, on_loss=lost.append, **{**PATIENT, **changes})
    try:
        yield served, executor, lost
    finally:
        executor.close()


def is_running(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition: Callable[[], object], what: str) -> None:
    for _ in range(WAIT_S * 20):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"after {WAIT_S} s still not: {what}")


def assert_equal_answers(
    executor: DistributedExecutor, alone: TorchExecutor, vocab_size: int, window: int | None = None
) -> None:
    """On the ranks what lies behind the `window` is gone."""
    expected, expected_tokens = served_mix(alone, vocab_size)
    logits, tokens = served_mix(executor, vocab_size, window=window)
    assert tokens == expected_tokens
    for found, reference in zip(logits, expected, strict=True):
        assert found.shape == reference.shape
        if len(reference):
            assert relative_error(found, reference) < 1e-5


def test_two_ranks_serve_a_mixture_of_experts_as_one_process_does() -> None:
    whole = tiny()
    alone = TorchExecutor(whole.transformer, 64, block_tokens=BLOCK_TOKENS)
    with ranks("tiny", Degrees(tensor=2, expert=2)) as (served, executor, lost):
        assert executor.bytes_per_block == alone.bytes_per_block
        assert executor.n_blocks == LIMITS.max_cache_bytes // alone.bytes_per_block
        assert_equal_answers(executor, alone, 261)
        executor.step([Part([1, 2, 3], 0, [0], n_logits=0)])
        executor.copy_block(0, 1)
        first, copied = (Part([5], 3, [block]) for block in (0, 1))
        assert torch.equal(logits_of(executor, [first]), logits_of(executor, [copied]))
        assert_refused_before_any_rank_sees_it(executor)
        assert_experts_of_both_ranks_are_counted(served, executor)
        assert answer(served, executor) == answer(whole, None)
        processes = executor.process_ids
        assert len(processes) == 1 and is_running(processes[0])
    assert lost == [] and not is_running(processes[0])
    with pytest.raises(RankMissingError, match="was closed"):
        executor.step([Part([1], 0, [0])])


def assert_experts_of_both_ranks_are_counted(served: ServedModel, executor: DistributedExecutor) -> None:
    moe = served.transformer.config.moe
    assert moe is not None
    listener = expert_load_of(executor, served.transformer)
    executor.step([Part(list(range(40)), 0, [0, 1, 2])])
    assert listener.n_counted == 1 and len(listener.load()) == served.transformer.config.n_layers
    for load_E in listener.load():
        assert sum(load_E) == 40 * moe.top_k
        assert sum(load_E[: moe.n_experts // 2]) and sum(load_E[moe.n_experts // 2 :])
    listener.close()


def assert_refused_before_any_rank_sees_it(executor: DistributedExecutor) -> None:
    for part, message in [
        (Part([], 0, [0]), "needs new tokens"),
        (Part([1], 512, [0] * 40), "end within 512"),
        (Part([261], 0, [0]), "vocabulary of 261"),
        (Part([-1], 0, [0]), "vocabulary of 261"),
        (Part([1], 0, [0], n_logits=2), "its own new tokens"),
        (Part([1], BLOCK_TOKENS, [0]), "no room"),
        (Part([1], 0, [executor.n_blocks]), "numbers below"),
        (Part([1], 40, [GONE, 1, 2]), "numbers below"),
    ]:
        with pytest.raises(ValueError, match=message):
            executor.step([part])
    assert executor.step([Part([1], 0, [0])]).shape == (1, 261)


def answer(served: ServedModel, executor: DistributedExecutor | None) -> str:
    """Greedy, through the engine."""
    texts: list[str] = []
    ended = threading.Event()

    def listen(event: Event) -> None:
        texts.append(event.text)
        if event.finish is not None:
            texts.append(str(event.finish))
            ended.set()

    engine = Engine(served, LIMITS, executor=executor or TorchExecutor(served.transformer, 16))
    engine.start()
    prompt = tuple(b"one or many?")
    engine.submit(Generation(prompt, 12, SamplingSettings(temperature=0), ignore_stop_tokens=True), listen)
    assert ended.wait(WAIT_S)
    engine.stop()
    return "".join(texts)


def test_a_rank_that_is_killed_ends_the_job_at_once_and_says_which() -> None:
    """First while no one computes, so only watching can tell; then no step may hang."""
    with ranks("tiny", Degrees(expert=2)) as (_, executor, lost):
        executor.step([Part([1], 0, [0])])
        os.kill(executor.process_ids[0], signal.SIGKILL)
        wait_until(lambda: lost, "the loss is told")
        assert str(lost[0]) == (
            "rank 1 was ended by SIGKILL, and the others cannot continue without it: see its output above"
        )
        with pytest.raises(RankMissingError, match="rank 1 was ended by SIGKILL"):
            executor.step([Part([1], 0, [0])])
    assert len(lost) == 1


@pytest.mark.long
def test_a_rank_that_hangs_is_lost_when_its_time_is_up() -> None:
    with ranks("tiny", Degrees(tensor=2), step_timeout_s=10.0) as (_, executor, lost):
        process = executor.process_ids[0]
        os.kill(process, signal.SIGSTOP)
        with pytest.raises(RankMissingError, match="a step of several ranks failed"):
            executor.step([Part([1], 0, [0])])
        assert len(lost) == 1 and not is_running(process)
        with pytest.raises(RankMissingError):
            executor.step([Part([1], 0, [0])])


@pytest.mark.long
def test_a_rank_that_is_killed_within_a_step_ends_that_step() -> None:
    with ranks("tiny", Degrees(tensor=2)) as (_, executor, lost):
        threading.Timer(0.3, os.kill, (executor.process_ids[0], signal.SIGKILL)).start()
        with pytest.raises(RankMissingError, match="rank 1 was ended by SIGKILL"):
            while True:
                executor.step([Part([1] * 200, 0, list(range(13)))])
        assert len(lost) == 1


@pytest.mark.long
def test_two_ranks_serve_a_dense_windowed_model_of_a_folder_as_one_process_does(tmp_path: Path) -> None:
    """Then another job in the same process."""
    model = random_transformer(replace(SMALL, vocab_size=256, sliding_window=9)).eval()
    characters = {character: token for token, character in enumerate(byte_alphabet())}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=characters, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    files = {TOKENIZER_FILE: tokenizer.to_str(), TEMPLATE_FILE: TINY_TEMPLATE}
    folder = tmp_path / "llama"
    save_checkpoint(folder, model.config, model.state_dict(), metadata={"stop_tokens": [0]}, files=files)
    alone = TorchExecutor(model, 64, block_tokens=BLOCK_TOKENS)
    for _ in range(2):
        with ranks(str(folder), Degrees(tensor=2)) as (_, executor, _):
            assert_equal_answers(executor, alone, 256, window=9)


def test_models_that_cannot_be_split_are_refused_before_a_rank_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("model.serving.distributed.executor.Workers", None)
    with pytest.raises(MeshError, match="tiny cannot be served with tensor parallel 4"):
        start("tiny", None, Degrees(tensor=4), limits=LIMITS)


# -- processes, without torch -----------------------------------------------------------------------


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A rank that does what its job says."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "small_rank.py").write_text(
        "import os, sys, json, time\n"
        "job = json.loads(sys.argv[2])\n"
        "if job['speaks']: print('here', flush=True)\n"
        "if job['status'] is not None: os._exit(job['status'])\n"
        "sys.stdin.read()\n"
    )
    yield "small_rank"


def job(*, speaks: bool = True, status: int | None = None) -> str:
    return json.dumps({"speaks": speaks, "status": status})


def test_ranks_end_when_their_pipe_closes(module: str) -> None:
    workers = Workers(module, job(), 2)
    workers.wait_for_line(WAIT_S)
    told: list[object] = []
    workers.watch(told.append)
    processes = [workers._processes[rank] for rank in (1, 2)]
    assert workers.first_ended() is None
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait(WAIT_S) for process in processes] == [0, 0]
    wait_until(lambda: told, "the end of a rank is told")
    workers.end(1.0)
    workers.end(1.0)
    assert len(told) == 1


def test_ranks_that_are_ended_on_purpose_are_not_told_of(module: str) -> None:
    workers = Workers(module, job(), 1)
    workers.wait_for_line(WAIT_S)
    told: list[object] = []
    workers.watch(told.append)
    workers.end(0.0)
    time.sleep(0.3)
    assert told == [] and not is_running(workers.process_ids[0])


def test_ranks_that_do_not_end_by_themselves_are_killed_and_named(module: str) -> None:
    workers = Workers(module, job(), 2)
    workers.wait_for_line(WAIT_S)
    assert workers.running() == [1, 2]
    assert workers.end(0.1) == [1, 2]
    assert workers.running() == [] and workers.end(0.1) == []


def test_a_rank_that_ended_for_the_loss_of_another_is_not_the_lost_one(module: str) -> None:
    workers = Workers(module, job(status=LOST_ANOTHER), 1)
    workers.wait_for_line(WAIT_S)
    ended = workers.first_ended(WAIT_S)
    assert ended is not None and str(ended) == f"rank 1 ended with exit status {LOST_ANOTHER}"
    assert workers.first_ended(by_itself=True) is None
    workers.end(0.0)


def test_a_rank_that_ends_before_it_is_here_is_named_with_its_status(module: str) -> None:
    workers = Workers(module, job(speaks=False, status=7), 1)
    with pytest.raises(RankMissingError, match="rank 1 of 2 did not start: rank 1 ended with exit status 7"):
        workers.wait_for_line(WAIT_S)
    workers.end(0.0)


def test_a_rank_that_says_nothing_is_not_waited_for_for_ever(module: str) -> None:
    workers = Workers(module, job(speaks=False), 1)
    with pytest.raises(RankMissingError, match="rank 1 of 2 did not start: it did not respond for 0 s"):
        workers.wait_for_line(0.3)
    workers.end(0.0)
    assert not is_running(workers.process_ids[0])
