"""Training as a process of its own: killed, interrupted, without disk or memory, and with damaged data."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model.data.tokenizer import TextTokenizer
from model.serving.api.chat import Message
from model.serving.node.served import load_served
from model.training.config.run_config import read_run_config
from model.training.run.data import open_data
from model.training.run.run import train
from tests.model.training.run.training_processes import ended, run_file, start, steps_logged, wait_for_step
from tests.model.training.run.training_runs import data_folder, equal_states

pytestmark = [
    pytest.mark.timeout(900),  # seconds on an idle machine; a busy one starves whole processes
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_folder(tmp_path_factory.mktemp("data") / "built")


def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path, data: Path) -> None:
    tables: dict[str, Any] = {"budget": {"steps": 80}, "saving": {"every_steps": 7}}
    straight = read_run_config(run_file(tmp_path, data, "straight", **tables))
    train(straight, open_data(straight))
    file = run_file(tmp_path, data, "killed", **tables)
    process = start(file)
    wait_for_step(tmp_path / "killed", 9, process)
    process.kill()
    assert ended(process)[0] == -signal.SIGKILL
    reached = steps_logged(tmp_path / "killed")[-1]
    assert 9 <= reached < 80, "the run ended before it could be killed"
    status, out, err = ended(start(file, "--resume", "--json"))
    assert status == 0, err
    document = json.loads(out)
    assert document["step"] == 80 and document["held_out_loss"] > 0
    assert equal_states(tmp_path / "straight", tmp_path / "killed")
    assert steps_logged(tmp_path / "killed") == list(range(1, 81))
    assert "resuming after step" in err and any(Path(document["tensorboard"]).iterdir())
    served = load_served(document["model"])
    prompt = served.chat.render([Message("user", "3 times 3?")])
    ids, (answer_start, _) = TextTokenizer.load(data).encode_instruction("3 times 3?", "9")
    assert served.tokenizer.encode(prompt) == ids[:answer_start]  # asked as it was trained
    assert served.tokenizer.stop_tokens == {ids[-1]}


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path: Path, data: Path) -> None:
    """A limit on the size of files stands for it; what was saved before stays and is whole."""
    file = run_file(tmp_path, data)
    config = read_run_config(file)
    train(config, open_data(config), stop_at=2)
    size = max(path.stat().st_size for path in (tmp_path / "run" / "checkpoints").rglob("*"))
    limit = size // 2

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    status, out, err = ended(start(file, "--resume", "--json", limit=small_files))
    assert status == 5, (out, err)
    error = json.loads(out)["error"]
    assert error["code"] == "disk_full"
    for part in ("File too large after step 4", "Free space there", "--resume", "step-00000002"):
        assert part in error["message"]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000002"]
    assert train(config, open_data(config), is_resumed=True).step == 6


@pytest.mark.long
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(
    tmp_path: Path, data: Path, number: signal.Signals, expected: int
) -> None:
    file = run_file(tmp_path, data, budget={"steps": 100_000}, saving={"every_steps": 0})
    process = start(file)
    wait_for_step(tmp_path / "run", 3, process)
    process.send_signal(number)
    status, out, err = ended(process)
    assert status == expected
    last = steps_logged(tmp_path / "run")[-1]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [f"step-{last:08d}"]
    assert f"stopped by {number.name}" in out
    assert f"tensorboard --logdir {tmp_path / 'run' / 'tensorboard'}" in out
    assert f"continue with: gainshare train {file} --resume" in err.replace("\n", "")
    status, out, err = ended(start(file, "--resume", "--steps", str(last + 1), "--json"))
    assert status == 0 and json.loads(out)["step"] == last + 1, err


@pytest.mark.long
def test_memory_that_runs_out_is_said_and_more_micro_batches_go_on(tmp_path: Path, data: Path) -> None:
    tables: dict[str, Any] = {
        "data": {"batch_tokens": 262_144},
        "model": {"preset": "tiny"},
        "evaluation": {"every_steps": 0},
    }
    file = run_file(tmp_path, data, **tables)

    def little_memory() -> None:
        limit = 3 * 2**30
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    status, out, err = ended(start(file, "--json", limit=little_memory))
    assert status == 3, (out, err)
    assert "micro_batches" in json.loads(out)["error"]["message"]
    file = run_file(tmp_path, data, **tables, compute={"micro_batches": 64})
    last = max((int(made.name[5:]) for made in (tmp_path / "run").rglob("step-*")), default=0)
    resumed = ["--resume"] if last else []  # it may run out after some steps, which are kept
    status, out, err = ended(start(file, "--json", "--steps", str(last + 1), *resumed, limit=little_memory))
    assert status == 0 and json.loads(out)["step"] == last + 1, (out, err)


@pytest.mark.long
def test_damaged_data_is_named(tmp_path: Path) -> None:
    folder = data_folder(tmp_path / "data")
    [shard] = (folder / "general" / "train").glob("*.arrow")
    content = bytearray(shard.read_bytes())
    for place in range(len(content) // 4, len(content) // 2):
        content[place] ^= 0x55
    shard.write_bytes(content)
    status, out, err = ended(start(run_file(tmp_path, folder), "--json"))
    assert status == 6, (out, err)
    message = json.loads(out)["error"]["message"]
    assert str(shard) in message and "build the data again" in message


def test_what_cannot_start_says_why_before_it_loads_torch(tmp_path: Path, data: Path) -> None:
    file = run_file(tmp_path, data)
    file.write_text(file.read_text().replace("warmup_steps", "warmup_stepps"))
    code = (
        "import sys; from model.training.run.command import main;"
        f"status = main([{str(file)!r}]); sys.exit(100 * ('torch' in sys.modules) + status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "did you mean 'warmup_steps'" in done.stderr.replace("\n", " ")
