"""Real jobs of several gloo ranks: loss curves equal the single process's, and lost ranks end with a clear error."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from model.parallel.check import main

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[3]
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(REPOSITORY),
    "CUDA_VISIBLE_DEVICES": "",
}
JOB_LIMIT_S = 240


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start_rank(rank: int, n_ranks: int, port: int, *arguments: str) -> subprocess.Popen[str]:
    """One rank with the environment that torchrun would give it, without the cost of torchrun's own process."""
    environment = {
        **ENVIRONMENT,
        "RANK": str(rank),
        "WORLD_SIZE": str(n_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env=environment,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each; none is left behind."""
    try:
        ended = []
        for process in processes:
            out, err = process.communicate(timeout=JOB_LIMIT_S)
            ended.append((process.returncode, out, err))
        return ended
    finally:
        for process in processes:
            process.kill()
            process.wait()


def job(n_ranks: int, *arguments: str) -> dict[str, Any]:
    port = free_port()
    arguments = (*arguments, "--learning-rate", "0.01", "--json")  # learns much in few steps
    ended = finish([start_rank(rank, n_ranks, port, *arguments) for rank in range(n_ranks)])
    assert [code for code, _, _ in ended] == [0] * n_ranks, ended
    document: dict[str, Any] = json.loads(ended[0][1])
    return document


def assert_learns(document: dict[str, Any]) -> None:
    """Equal curves prove little where nothing is learnt."""
    assert document["single"][-1] < document["single"][0] - 0.05
    for row in document["rows"]:
        assert len(row["losses"]) == len(document["single"])
        assert row["largest_difference"] <= document["tolerance"], row


def meshes(*texts: str) -> list[str]:
    return [part for text in texts for part in ("--mesh", text)]


def test_two_ranks_of_each_axis_train_as_one_process_does() -> None:
    document = job(
        2,
        "model.parallel.check",
        *meshes("tp=2", "dp=2,ep=2", "pp=2", "dp=2", "tp=2,ep=2,etp=1"),
        "--steps",
        "5",
    )
    assert [row["mesh"] for row in document["rows"]] == [
        "dp=1,tp=2,pp=1,ep=1",
        "dp=2,tp=1,pp=1,ep=2",
        "dp=1,tp=1,pp=2,ep=1",
        "dp=2,tp=1,pp=1,ep=1",
        "dp=1,tp=2,pp=1,ep=2,etp=1",
    ]
    assert_learns(document)


def test_two_ranks_that_split_the_sequence_train_as_one_process_does() -> None:
    """Packed rows of odd length, a tied embedding."""
    odd = ("--tokens", "15", "--packed", "--steps", "5")
    assert_learns(job(2, "model.parallel.check", *meshes("tp=2", "tp=2,ep=2,etp=1"), "--sequence", *odd))


def test_a_rank_that_never_comes_is_named_within_the_timeout() -> None:
    start = time.monotonic()
    arguments = ("model.parallel.check", "--mesh", "dp=2", "--timeout", "2")
    ((code, _, err),) = finish([start_rank(0, 2, free_port(), *arguments)])
    assert code == 3, err
    assert "error: rank 0 waited 2 s for the 2 ranks of this job" in err
    assert time.monotonic() - start < 60


def test_a_rank_outside_of_a_job_says_how_to_start_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert main(["--mesh", "dp=2"]) == 3
    assert "start the ranks with `torchrun" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dp=2", "--mesh", "pp=2", "--zero", "1", "--move"], "--zero cannot be used with a pipeline"),
        (["pp=2", "--zero", "1", "--micro-batches", "1"], "--zero cannot be used with a pipeline"),
        (["dp=2", "--zero", "1", "--chunks", "2"], "--chunks cannot be used with --zero"),
        (["dp=2", "--zero", "1", "--shard-states"], "--shard-states cannot be used with --zero"),
        (["tp=2", "--zero", "1", "--sequence"], "--sequence cannot be used with --zero"),
        (
            ["dp=2", "--mesh", "pp=2", "--sequence"],
            "--sequence needs tensor parallelism: give a --mesh with tp",
        ),
        (["dp=2", "--offload"], "--offload needs --zero: it is DeepSpeed's"),
        (["dp=2", "--bf16"], "--bf16 needs --zero: it is DeepSpeed's"),
        (["dp=2", "--move"], "--move needs two --mesh options, not 1"),
        (["dp=2", "--mesh", "tp=2", "--move", "--steps", "1"], "give at least 2 --steps"),
        (["dp=2", "--mesh", "tp=2", "--chunks", "2"], "give a --mesh with pp of at least 2"),
        (["pp=2", "--chunks", "2", "--micro-batches", "3"], "3 micro-batches are not a multiple of pp (2)"),
        (["pp=2", "--micro-batches", "1"], "1 micro-batches cannot fill 2 pipeline stages"),
        (["dp=2", "--steps", "0"], "--steps must be at least 1"),
        (["dp=2", "--chunks", "0"], "--chunks must be at least 1"),
        (["dp=2", "--micro-batches", "0"], "--micro-batches must be at least 1"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_ranks_are_waited_for(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert main(["--mesh", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize(
    "extra",
    [
        ["--model", "small-latent"],
        ["--model", "small-moe", "--checkpointing", "full", "--packed", "--micro-batches", "4"],
        ["--model", "small-latent", "--checkpointing", "selective", "--micro-batches", "2"],
    ],
    ids=["latent", "full-packed", "selective"],
)
def test_two_ranks_with_other_models_and_checkpointing(extra: list[str]) -> None:
    assert_learns(job(2, "model.parallel.check", *meshes("tp=2", "dp=2,ep=2", "pp=2"), *extra))


@pytest.mark.long
def test_two_ranks_of_a_dense_model_with_windows_and_interleaved_stages() -> None:
    assert_learns(job(2, "model.parallel.check", *meshes("tp=2", "pp=2"), "--model", "small-dense"))
    assert_learns(job(2, "model.parallel.check", *meshes("pp=2"), "--chunks", "2", "--micro-batches", "4"))


@pytest.mark.long
@pytest.mark.parametrize("model", ["small-moe", "small-latent"])
def test_four_ranks_of_two_axes(model: str) -> None:
    pairs = meshes("pp=2,tp=2", "pp=2,dp=2,ep=2", "dp=2,tp=2,ep=2", "dp=4,ep=2", "dp=4,ep=4")
    assert_learns(job(4, "model.parallel.check", *pairs, "--model", model))


@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "extra"),
    [
        ("small-moe", ["pp=2,tp=2,ep=2,etp=1", "--packed", "--checkpointing", "full"]),
        ("small-latent", ["tp=4,ep=2,etp=1", "--checkpointing", "selective"]),
        ("small-moe", ["pp=2,tp=2,ep=2,etp=1", "--chunks", "2", "--micro-batches", "4"]),
    ],
    ids=["packed", "copies", "interleaved"],
)
def test_four_ranks_with_whole_experts_over_tensor_parallel_ones(model: str, extra: list[str]) -> None:
    folded = meshes("dp=2,tp=2,ep=4,etp=1", "dp=2,tp=2,ep=2,etp=1", extra[0])
    assert_learns(job(4, "model.parallel.check", *folded, "--model", model, "--shard-states", *extra[1:]))


@pytest.mark.long
@pytest.mark.parametrize("model", ["small-moe", "small-latent"])
def test_eight_ranks_of_pipeline_tensor_and_expert_parallel_at_once(model: str) -> None:
    document = job(
        8,
        "model.parallel.check",
        *meshes("dp=2,tp=2,pp=2,ep=2", "dp=2,tp=2,pp=2,ep=4,etp=1"),
        *("--model", model, "--steps", "6"),
    )
    assert_learns(document)


@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "extra"),
    [
        ("small-moe", ["--checkpointing", "full", "--packed"]),
        ("small-latent", ["--checkpointing", "selective", "--micro-batches", "4"]),
        ("small-moe", ["--chunks", "2", "--micro-batches", "4", "--shard-states"]),
    ],
    ids=["full-packed", "selective", "interleaved"],
)
def test_four_ranks_that_split_the_sequence(model: str, extra: list[str]) -> None:
    split = meshes("pp=2,tp=2", "dp=2,tp=2,ep=2", "dp=2,tp=2,ep=4,etp=1", "pp=2,tp=2,ep=2,etp=1", "dp=2,tp=2")
    arguments = (*split, "--sequence", "--model", model, "--tokens", "15", *extra)
    assert_learns(job(4, "model.parallel.check", *arguments))


@pytest.mark.long
def test_ranks_that_split_the_sequence_of_a_dense_model_with_windows() -> None:
    dense = ("--model", "small-dense", "--tokens", "17")
    assert_learns(job(2, "model.parallel.check", *meshes("tp=2"), "--sequence", *dense))


@pytest.mark.long
@pytest.mark.parametrize("model", ["small-moe", "small-latent"])
def test_eight_ranks_split_the_sequence_beside_all_other_axes(model: str) -> None:
    split = meshes("dp=2,tp=2,pp=2,ep=2", "dp=2,tp=2,pp=2,ep=4,etp=1")
    assert_learns(job(8, "model.parallel.check", *split, "--sequence", "--model", model, "--steps", "6"))


@pytest.mark.long
@pytest.mark.parametrize("model", ["small-moe", "small-latent"])
def test_a_run_goes_on_with_a_split_sequence_and_with_a_whole_one(model: str) -> None:
    for order in (("tp=2", "dp=2,ep=2"), ("pp=2", "tp=2")):
        arguments = (*meshes(*order), "--move", "--sequence", "--model", model, "--steps", "6")
        assert_learns(job(2, "model.parallel.check", *arguments, "--shard-states"))


@pytest.mark.long
@pytest.mark.parametrize("model", ["small-moe", "small-latent"])
def test_states_spread_over_copies_train_alike(model: str) -> None:
    assert_learns(job(2, "model.parallel.check", *meshes("dp=2"), "--model", model, "--shard-states"))
    assert_learns(
        job(4, "model.parallel.check", *meshes("dp=4,ep=2", "dp=2,pp=2"), "--model", model, "--shard-states")
    )


@pytest.mark.long
@pytest.mark.parametrize("model", ["small-moe", "small-latent"])
def test_a_run_goes_on_on_another_mesh(model: str) -> None:
    first, second = "dp=2,ep=2", "tp=2"
    for order in ((first, second), (second, "pp=2"), ("pp=2", first)):
        arguments = (*meshes(*order), "--move", "--model", model, "--steps", "6", "--shard-states")
        assert_learns(job(2, "model.parallel.check", *arguments))


@pytest.mark.long
@pytest.mark.parametrize("model", ["small-moe", "small-latent"])
def test_a_run_goes_on_with_whole_experts_and_with_split_ones(model: str) -> None:
    split, whole, few = "dp=2,tp=2,ep=2", "dp=2,tp=2,ep=4,etp=1", "pp=2,tp=2,ep=2,etp=1"
    for order in ((split, whole), (whole, few), (few, split)):
        arguments = (*meshes(*order), "--move", "--model", model, "--steps", "6", "--shard-states")
        assert_learns(job(4, "model.parallel.check", *arguments))


@pytest.mark.long
def test_an_interleaved_run_goes_on_on_another_mesh() -> None:
    extra = (
        "--chunks",
        "2",
        "--micro-batches",
        "4",
        "--packed",
        "--checkpointing",
        "selective",
        "--steps",
        "6",
    )
    for order in (("pp=2", "tp=2"), ("dp=2,ep=2", "pp=2")):
        assert_learns(job(2, "model.parallel.check", *meshes(*order), "--move", *extra))


@pytest.mark.long
def test_torchrun_starts_the_same_job() -> None:
    process = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *("-m", "model.parallel.check", "--mesh", "tp=2", "--json"),
        ],
        env=ENVIRONMENT,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=JOB_LIMIT_S,
    )
    assert process.returncode == 0, process.stderr
    assert_learns(json.loads(process.stdout))


@pytest.mark.long
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hanging"])
@pytest.mark.parametrize("mesh", ["pp=2", "tp=2"])
def test_a_rank_that_is_lost_on_the_way_is_named_within_the_timeout(sent: signal.Signals, mesh: str) -> None:
    port = free_port()
    arguments = ("model.parallel.check", "--mesh", mesh, "--steps", "100000", "--timeout", "8")
    ranks = [start_rank(rank, 2, port, *arguments, "--announce") for rank in range(2)]
    try:
        assert ranks[0].stdout is not None
        assert "mesh training" in ranks[0].stdout.readline()
        time.sleep(1)
        ranks[1].send_signal(sent)
        start = time.monotonic()
        _, err = ranks[0].communicate(timeout=90)
        assert ranks[0].returncode == 3, err
        assert "error: rank 0 lost another rank" in err
        assert time.monotonic() - start < 60
    finally:
        finish_all(ranks)


def finish_all(ranks: list[subprocess.Popen[str]]) -> None:
    for rank in ranks:
        rank.kill()
        rank.wait()


@pytest.fixture
def world_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process as the only rank of a job."""
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(free_port()))


@pytest.mark.usefixtures("world_of_one")
def test_curves_that_differ_are_reported_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    """An impossible tolerance makes the same job fail: the comparison is not vacuous."""
    assert main(["--mesh", "dp=1", "--steps", "2", "--tolerance", "-1"]) == 1
    assert "NOT EQUAL" in capsys.readouterr().out


@pytest.mark.usefixtures("world_of_one")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mesh", "dp=3"], "needs 3 ranks"),
        (["--mesh", "xp=2"], "unknown axis 'xp'"),
        (["--mesh", "dp=1", "--model", "nowhere.json"], "nowhere.json"),
        (["--mesh", "dp=1", "--zero", "7"], "stages 0 to 3"),
        (["--mesh", "dp=1", "--rows", "7", "--micro-batches", "2"], "7 rows cannot be cut"),
        (
            ["--mesh", "dp=1", "--mesh", "dp=1", "--move", "--rows", "7", "--micro-batches", "2"],
            "7 rows cannot be cut",
        ),
    ],
    ids=["world", "axis", "model", "zero", "rows", "rows-moved"],
)
def test_impossible_input_ends_with_code_two(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
