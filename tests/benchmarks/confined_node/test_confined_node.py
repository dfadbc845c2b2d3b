"""A model node in a sandbox of each level of this machine: it answers, reaches nothing, and ends with its starter."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from benchmarks.confined_node.__main__ import main
from benchmarks.confined_node.folders import (
    BERTHS,
    CANARY_SEATS,
    DEVICES,
    berth_seat,
    make_folders,
    make_readable,
    node_slot,
    node_uid,
    remove_old,
)
from benchmarks.confined_node.memory import default_memory_bytes
from benchmarks.sandbox import SandboxLevel, levels_here
from model import kernel_ways
from model.checkpoint import save_checkpoint
from model.kernel_ways import Rates
from model.serving.api.chat import TEMPLATE_FILE, TINY_TEMPLATE
from model.serving.api.tokenizer import TOKENIZER_FILE, byte_alphabet
from model.serving.node.served import tiny
from tests.benchmarks.confined_node.confined import ROOT, TOKEN, ConfinedNode, bearer, eventually
from tests.benchmarks.sandbox.sandbox_levels import level_or_skip

pytestmark = [pytest.mark.sandbox, pytest.mark.slow, pytest.mark.timeout(900)]

HERE = [
    level.value
    for level, problem in levels_here().items()
    if problem is None and level is not SandboxLevel.NONE
]


@pytest.fixture(scope="module", params=HERE or ["best"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConfinedNode]:
    level = request.param if HERE else level_or_skip("best").value
    made = ConfinedNode(tmp_path_factory.mktemp(level), level).start()
    yield made
    made.close()


@pytest.fixture
def one(tmp_path: Path) -> Iterator[ConfinedNode]:
    """A node for one test, which ends it."""
    made = ConfinedNode(tmp_path, level_or_skip("best").value)
    yield made
    made.close()


def test_it_answers_whole_and_in_pieces(node: ConfinedNode) -> None:
    whole = node.post("v1/completions", prompt="hello", max_tokens=8, temperature=0).json()
    assert whole["usage"]["completion_tokens"] == 8
    body = {"model": "tiny", "prompt": "hello", "max_tokens": 8, "temperature": 0, "stream": True}
    with httpx.stream(
        "POST", node.url("v1/completions"), headers=bearer(TOKEN), json=body, timeout=120, trust_env=False
    ) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"


def test_it_wants_its_token(node: ConfinedNode) -> None:
    assert node.get("v1/models", token="").status_code == 401
    assert node.get("v1/models", token="another").status_code == 401
    assert node.get("v1/models").json()["data"][0]["id"] == "tiny"


def test_large_requests_pass_whole_or_are_refused_by_the_node(node: ConfinedNode) -> None:
    counted = node.post("tokenize", prompt="x " * 100)
    assert counted.json()["count"] == 200
    assert node.post("tokenize", prompt="x" * (5 << 20)).status_code == 413


def test_a_client_that_leaves_ends_its_answer(node: ConfinedNode) -> None:
    body = {"model": "tiny", "prompt": "hello", "max_tokens": 200, "ignore_eos": True, "stream": True}
    with httpx.stream(
        "POST", node.url("v1/completions"), headers=bearer(TOKEN), json=body, timeout=120, trust_env=False
    ) as answer:
        next(answer.iter_lines())
    assert eventually(lambda: node.get("stats").json()["running"] == 0, "the request is still running")


def test_it_has_namespaces_an_environment_and_a_user_of_its_own(node: ConfinedNode) -> None:
    pid = node.node_pid()
    for kind in ("net", "mnt", "pid", "ipc", "uts"):
        assert Path(f"/proc/{pid}/ns/{kind}").readlink() != Path(f"/proc/self/ns/{kind}").readlink(), kind
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"canary" not in environment and TOKEN.encode() not in environment
    assert b"GAINSHARE_HOME=/node/home\0" in environment
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert int(status["CapEff"], 16) == 0 and status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    if os.geteuid() == 0:
        assert set(status["Uid"].split()) == {str(node_uid())} != {"0"}


def test_its_only_network_is_an_empty_one(node: ConfinedNode) -> None:
    """No interface but a loopback, and no route."""
    pid = node.node_pid()
    names = [line.split(":")[0].strip() for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]]
    assert names == ["lo"]
    assert len(Path(f"/proc/{pid}/net/route").read_text().splitlines()) <= 1


def test_what_it_may_write_is_its_own(node: ConfinedNode) -> None:
    mounts = Path(f"/proc/{node.node_pid()}/mounts").read_text().splitlines()
    writable = {words[1] for line in mounts if "rw" in (words := line.split())[3].split(",")}
    own = {"/node/home/native", "/node/home/packed", "/node/run", "/tmp", "/work", "/dev/shm"}
    assert {path for path in writable if path.startswith("/node")} == {
        path for path in own if path.startswith("/node")
    }
    assert {path for path in writable if not path.startswith("/dev")} <= own


def test_it_says_what_confines_it(node: ConfinedNode) -> None:
    assert node.said.startswith(f"the node runs in the sandbox {node.level}, with at most ")


def test_it_drains_and_leaves_nothing_but_its_state(one: ConfinedNode) -> None:
    one.start()
    pids = one.pids()
    assert one.end() == 0
    deadline = time.monotonic() + 10  # the kernel reaps them when the sandbox's first process has ended
    while left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    assert sorted(path.name for path in (one.folder / "node").iterdir()) == ["state"]
    with pytest.raises(httpx.TransportError):
        one.get("health")


def test_it_ends_with_a_killed_starter_and_starts_again(one: ConfinedNode) -> None:
    one.start()
    pids = one.pids()
    kept = (one.folder / "node/state/native").stat().st_ino
    assert one.end(signal.SIGKILL) == -signal.SIGKILL
    eventually(
        lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the node outlives its starter"
    )
    one.start()
    assert (one.folder / "node/state/native").stat().st_ino == kept
    assert one.end() == 0
    assert sorted(path.name for path in (one.folder / "node").iterdir()) == ["state"]


def test_a_node_that_dies_ends_its_starter(one: ConfinedNode) -> None:
    one.start()
    os.kill(one.node_pid(), signal.SIGKILL)
    assert one.process is not None
    assert one.process.wait(120) == 128 + signal.SIGKILL


def test_a_taken_port_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["--folder", str(tmp_path / "node"), "--port", str(port), "--", "--model", "tiny"]) == 2
    assert f"127.0.0.1:{port}" in capsys.readouterr().err
    assert not (tmp_path / "node").exists()


def test_a_node_of_another_server_is_not_confined_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "--folder",
        str(tmp_path / "node"),
        "--port",
        "0",
        "--",
        "--upstream",
        "http://127.0.0.1:1/v1",
    ]
    assert main(arguments) == 2
    assert "needs the network" in capsys.readouterr().err


def test_without_a_limit_most_of_the_machine_is_the_nodes() -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < default_memory_bytes() <= total * 3 // 4


def test_both_berths_of_all_devices_and_canaries_have_seats_of_their_own() -> None:
    nodes = [berth_seat(device, berth) for device in range(DEVICES) for berth in range(BERTHS)]
    slots = {node_slot(seat) for seat in (*nodes, *CANARY_SEATS)}
    assert len(slots) == len(nodes) + len(CANARY_SEATS) and len(CANARY_SEATS) >= 2
    assert [node_slot(berth_seat(device, 0)) for device in range(3)] == [
        15,
        14,
        13,
    ]  # of nodes started before
    for device, berth in ((DEVICES, 0), (-1, 0), (0, BERTHS), (0, -1)):
        with pytest.raises(ValueError, match="device"):
            berth_seat(device, berth)


def test_another_tree_does_not_run_without_a_sandbox(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--level", "none", "--folder", str(tmp_path / "node"), "--code", str(tmp_path)]
    assert main([*own, "--port", "0", "--", "--model", "tiny"]) == 2
    assert "in a sandbox only" in capsys.readouterr().err


# -- folders ----------------------------------------------------------------------------------------


def test_links_that_a_node_left_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    parent = tmp_path / "node"
    folders = make_folders(parent, code=tmp_path, kernels=None, token="t")
    (folders.run / "away").symlink_to(outside)
    (folders.state / "native/away.so").symlink_to(outside / "kept")
    remove_old(parent)
    assert not folders.run.exists() and (outside / "kept").read_text() == "kept"
    before = (outside / "kept").stat()
    kernels = tmp_path / "kernels"
    kernels.mkdir()
    (kernels / "new.so").write_bytes(b"elf")
    make_folders(parent, code=tmp_path, kernels=kernels, token=None)
    assert (folders.state / "native/new.so").read_bytes() == b"elf"
    assert not (folders.state / "native/away.so").exists()
    after = (outside / "kept").stat()
    assert (after.st_uid, after.st_mode) == (before.st_uid, before.st_mode)


def test_compiled_kernels_are_kept_while_they_are_those_of_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the rates that they were built by, so that the node measures nothing."""
    monkeypatch.setattr(kernel_ways, "BESIDE_THE_CODE", tmp_path)
    kernels = tmp_path / "kernels"
    kernels.mkdir()
    (kernels / "one.so").write_bytes(b"elf")
    rates = Rates(fma=2e9, dot=1e9, fp32_own=1e9, fp32_torch=2e9, bf16_own=2e9, bf16_torch=1e9)
    kernel_ways.keep(kernels, rates)
    first = make_folders(tmp_path / "node", code=tmp_path, kernels=kernels, token=None)
    (first.state / "native/own.so").write_bytes(b"compiled by the node")
    again = make_folders(tmp_path / "node", code=tmp_path, kernels=kernels, token=None)
    assert {path.name for path in (again.state / "native").glob("*.so")} == {"one.so", "own.so"}
    assert kernel_ways.measured(again.state / "native") == rates


def test_the_token_is_the_nodes_alone(tmp_path: Path) -> None:
    folders = make_folders(tmp_path / "node", code=tmp_path, kernels=None, token="secret")
    status = (folders.run / "token").stat()
    assert status.st_mode & 0o777 == 0o400 and status.st_uid == (node_uid() or os.geteuid())
    assert (tmp_path / "node").stat().st_mode & 0o777 == 0o700


def test_making_models_readable_touches_only_what_is_not(tmp_path: Path) -> None:
    """Packed weights are outdated when their files' change times differ."""
    models = tmp_path / "models"
    (models / "one").mkdir(parents=True)
    open_file, closed = models / "one/open", models / "one/closed"
    for file, mode in ((open_file, 0o644), (closed, 0o600)):
        file.write_text("weights")
        file.chmod(mode)
    before = open_file.stat().st_ctime_ns
    make_readable(models)
    assert open_file.stat().st_ctime_ns == before
    if os.geteuid() == 0:
        assert closed.stat().st_mode & 0o777 == 0o644


def small_model(folder: Path) -> None:
    """A model of random weights with a tokenizer of bytes, as a folder of the store."""
    characters = {character: token for token, character in enumerate(byte_alphabet())}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=characters, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    files = {TOKENIZER_FILE: tokenizer.to_str(), TEMPLATE_FILE: TINY_TEMPLATE}
    transformer = tiny().transformer
    folder.parent.mkdir()
    save_checkpoint(
        folder, transformer.config, transformer.state_dict(), metadata={"stop_tokens": [0]}, files=files
    )


def test_packed_weights_are_kept_from_one_start_to_the_next(one: ConfinedNode) -> None:
    small_model(one.folder / "models/kept")
    one.options = ("--models", str(one.folder / "models"))
    one.start()
    swapped = one.post("admin/swap", model="kept")
    assert swapped.status_code == 200, swapped.text
    (kept,) = (one.folder / "node/state/packed").glob("*.packed")
    written = kept.stat().st_mtime_ns
    assert one.end() == 0
    one.start()
    assert one.post("admin/swap", model="kept").status_code == 200
    assert kept.stat().st_mtime_ns == written


def test_a_starter_decides_nothing_about_the_nodes_threads() -> None:
    """The judge keeps its own mathematics on one thread; a node does not."""
    program = "import os, benchmarks.confined_node.__main__; print(os.environ.get('OMP_NUM_THREADS'))"
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment | {"PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "None\n"
