"""Packed weights that the first load keeps in a file and later ones map: the same bits, whatever happens to the file."""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from model import kernel_ways
from model.serving.executors import kept_weights, stored
from model.serving.executors.hardware import Hardware, add_options, load_on, read_options
from model.serving.executors.kept_weights import HEADER_BYTES, packed_home
from model.serving.executors.native import NativeExecutor
from model.serving.executors.native_weights import NativeWeights, least_bytes
from model.serving.executors.packed import Weights
from model.serving.executors.stored import StoredWeights, open_hugging_face, open_ours
from model.serving.executors.streamed import with_executor
from model.serving.node.served import open_served
from tests.model.hf.hf_models import FIELDS, build
from tests.model.random_models import SMALL, random_tokens
from tests.model.serving.executors.test_native_executor import CONFIGS, computed, model_of
from tests.model.serving.executors.test_stored_weights import (
    ALL_WEIGHTS,
    BF16,
    FP32,
    LIMITS,
    kept,
    library,
    written,
)
from tests.model.serving.node.test_loading import hf_folder

pytestmark = pytest.mark.slow


def load(opened: StoredWeights, folder: Path, weights: Weights = "int8") -> NativeWeights:
    return kept_weights.kept_weights(library(), opened, weights, folder)


def assert_same(found: NativeWeights, expected: NativeWeights) -> None:
    assert (found.n_bytes, found.embedding_kind) == (expected.n_bytes, expected.embedding_kind)
    pairs = list(zip(kept(found), kept(expected), strict=True))
    assert pairs and all(a.dtype == b.dtype and a.shape == b.shape and a.equal(b) for a, b in pairs)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name != kept_weights.LOCK)


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    return hf_folder(tmp_path / "theirs")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "packed"


@pytest.fixture
def nothing_read(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, reading a weight from a model's own files is an error."""

    def refuse(*_: object) -> None:
        raise AssertionError("weights were read")

    return lambda: monkeypatch.setattr(stored, "read_tensors", refuse)


@pytest.mark.parametrize("model_type", FIELDS)
def test_all_families_come_back_as_the_same_bits(
    model_type: str, folder: Path, tmp_path: Path, nothing_read: Callable[[], None]
) -> None:
    build(model_type).to(BF16).save_pretrained(tmp_path / "theirs", max_shard_size="100KB")
    for dtype in (None, FP32):  # on a processor without products of bf16 blocks are fp32
        opened = open_hugging_face(tmp_path / "theirs", dtype)
        for weights in ALL_WEIGHTS:
            expected = NativeWeights(library(), opened.transformer, weights, stored=opened)
            for _ in range(2):
                assert_same(load(opened, folder, weights), expected)
    assert {weight.device.type for weight in opened.transformer.state_dict().values()} == {"meta"}
    assert len(files(folder)) == len(ALL_WEIGHTS)  # those of another dtype took the others' place
    nothing_read()
    load(opened, folder, "fp32")


@pytest.mark.parametrize("name", CONFIGS)
def test_our_own_folders_come_back_as_the_same_bits(
    name: str, folder: Path, tmp_path: Path, nothing_read: Callable[[], None]
) -> None:
    opened = open_ours(written(tmp_path / "ours", model_of(name)), None)
    expected = {
        each: NativeWeights(library(), opened.transformer, each, stored=opened) for each in ALL_WEIGHTS
    }
    for weights in ALL_WEIGHTS:
        load(opened, folder, weights)
    nothing_read()
    for weights in ALL_WEIGHTS:
        assert_same(load(opened, folder, weights), expected[weights])


def test_an_executor_computes_the_same_from_kept_weights(theirs: Path, folder: Path) -> None:
    tokens = random_tokens(SMALL, 40).tolist()

    def logits(kept_in: Path | None) -> torch.Tensor:
        served = with_executor(open_served(str(theirs)), LIMITS, kept_in=kept_in)
        assert isinstance(served.executor, NativeExecutor)
        return computed(served.executor, tokens, [40], first=0)

    expected = logits(None)
    assert not folder.exists()
    assert torch.equal(logits(folder), expected) and torch.equal(logits(folder), expected)


def test_a_node_keeps_them_in_its_home_unless_it_is_told_not_to(theirs: Path, tmp_path: Path) -> None:
    def hardware(*arguments: str) -> Hardware:
        parser = argparse.ArgumentParser()
        add_options(parser)
        return read_options(parser.parse_args(arguments))

    home = tmp_path / "home"
    load_on(hardware("--no-keep-packed"), str(theirs), home, LIMITS)
    assert not packed_home(home).exists()
    load_on(hardware(), str(theirs), home, LIMITS)
    (file,) = files(packed_home(home))
    assert file.name.startswith("theirs-") and file.name.endswith("-fp32.packed")
    assert packed_home(home).stat().st_mode & 0o077 == 0


def test_mapping_them_leaves_torchs_compiler_alone(theirs: Path, folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from model.serving.metering.generation import EngineLimits; "
        "from model.serving.node.served import open_served; from model.serving.executors.streamed import with_executor; "
        f"with_executor(open_served({str(theirs)!r}), EngineLimits(), kept_in=Path({str(folder)!r})); "
        "sys.exit(str(sorted({'torch._dynamo', 'sympy'} & sys.modules.keys()) or ''))"
    )
    for _ in ("written", "mapped"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.stderr.strip() == "", "three quarters of a second and 90 MiB more"


def inode(folder: Path) -> int:
    (file,) = files(folder)
    return file.stat().st_ino


def test_whatever_has_a_part_in_them_makes_them_anew(
    theirs: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(open_hugging_face(theirs, None), folder)
    before = [tensor.clone() for tensor in kept(first)]
    seen = [inode(folder)]
    held = files(folder)[0].open("rb")  # its inode is not given to another file meanwhile

    def is_new() -> bool:
        load(open_hugging_face(theirs, None), folder)
        seen.append(inode(folder))
        return seen[-1] != seen[-2]

    with held:
        assert not is_new()
        os.utime(theirs / "model.safetensors", ns=(1, 1))
        assert is_new() and not is_new()
        monkeypatch.setattr(kept_weights, "_code", lambda: "another")
        assert is_new() and not is_new()
        monkeypatch.setattr(kernel_ways, "processor", lambda: ["another"])
        assert is_new() and not is_new()
    assert all(map(torch.equal, kept(first), before))  # the first file lives on for who has mapped it


def test_another_models_weights_of_the_same_name_are_not_mixed_up(tmp_path: Path, folder: Path) -> None:
    for parent in ("a", "b"):
        (tmp_path / parent).mkdir()
        hf_folder(tmp_path / parent / "theirs")
        load(open_hugging_face(tmp_path / parent / "theirs", None), folder)
    assert len(files(folder)) == 2
    shutil.rmtree(tmp_path / "a")
    load(open_hugging_face(tmp_path / "b" / "theirs", None), folder, "bf16")
    assert len(files(folder)) == 2  # those of the model that is gone went with it


def cut_off(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def grow(file: Path) -> None:
    os.truncate(file, file.stat().st_size + HEADER_BYTES)


def not_ours(file: Path) -> None:
    file.write_bytes(b"\xff" * 100)


def other_document(file: Path) -> None:
    file.write_text("[1]\n")


def emptied(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut_off, grow, not_ours, other_document, emptied])
def test_a_damaged_file_is_written_anew(damage: Callable[[Path], None], theirs: Path, folder: Path) -> None:
    opened = open_hugging_face(theirs, None)
    load(opened, folder)
    (file,) = files(folder)
    size = file.stat().st_size
    damage(file)
    assert_same(load(opened, folder), NativeWeights(library(), opened.transformer, "int8", stored=opened))
    assert file.stat().st_size == size


@pytest.mark.parametrize("more", [-1, 1])
def test_a_file_of_the_wrong_size_by_its_own_account_is_removed(
    more: int, theirs: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = open_hugging_face(theirs, None)
    load(opened, folder)
    (file,) = files(folder)
    with file.open("r+b") as writable:
        header = json.loads(writable.readline())
        header["bytes"] += more * HEADER_BYTES
        writable.seek(0)
        writable.write(json.dumps(header).encode() + b"\n")
        writable.truncate(HEADER_BYTES + header["bytes"])
    expected = NativeWeights(library(), opened.transformer, "int8", stored=opened)
    assert_same(load(opened, folder), expected)
    assert "is not used" in caplog.text and files(folder) == []
    assert_same(load(opened, folder), expected)
    assert len(files(folder)) == 1


def test_where_nothing_can_be_kept_weights_are_packed_into_memory(
    theirs: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = open_hugging_face(theirs, None)
    expected = NativeWeights(library(), opened.transformer, "int8", stored=opened)
    folder.write_text("a file")
    assert_same(load(opened, folder), expected)
    assert "not kept" in caplog.text and folder.read_text() == "a file"
    folder.unlink()
    folder.mkdir()
    folder.chmod(0o777)
    assert_same(load(opened, folder), expected)
    assert "other users can write" in caplog.text and list(folder.iterdir()) == []


def test_a_full_disk_costs_nothing_but_the_file(
    theirs: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By the limit on the size of files, which fails a write as a full disk does."""
    opened = open_hugging_face(theirs, None)
    expected = NativeWeights(library(), opened.transformer, "int8", stored=opened)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (HEADER_BYTES + 1000, hard))
    try:
        with caplog.at_level(logging.WARNING):
            found = load(opened, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_same(found, expected)
    assert "not kept" in caplog.text and files(folder) == []


def test_a_disk_that_others_need_is_left_alone(
    theirs: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened = open_hugging_face(theirs, None)
    expected = NativeWeights(library(), opened.transformer, "int8", stored=opened)
    room = shutil.disk_usage(theirs)
    needed = least_bytes(opened.transformer, "int8")
    monkeypatch.setattr(kept_weights.shutil, "disk_usage", lambda _: room._replace(free=2 * needed - 1))
    assert_same(load(opened, folder), expected)
    assert "more than half of the disk's free space" in caplog.text and files(folder) == []
    monkeypatch.setattr(kept_weights.shutil, "disk_usage", lambda _: room._replace(free=2 * needed))
    load(opened, folder)
    assert len(files(folder)) == 1


LOAD = """
import os, signal, sys
from pathlib import Path
from model.serving.executors import packed_memory
from model.serving.executors.kept_weights import kept_weights
from model.serving.executors.stored import open_hugging_face
from tests.model.serving.executors.test_stored_weights import kept, library

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[3] == "amid pieces":
    take = packed_memory.WrittenMemory.take
    packed_memory.WrittenMemory.take = lambda self, n: die() if self._used > 4096 else take(self, n)
elif sys.argv[3] == "before it is on the disk":
    os.fsync = die
elif sys.argv[3] == "before it has its name":
    Path.replace = die
weights = kept_weights(library(), open_hugging_face(Path(sys.argv[1]), None), "int8", Path(sys.argv[2]))
print(sum(int(tensor.view(-1).contiguous().view(dtype=__import__("torch").uint8).sum()) for tensor in kept(weights)))
"""


def start(theirs: Path, folder: Path, dies: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", LOAD, str(theirs), str(folder), dies], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("dies", ["amid pieces", "before it is on the disk", "before it has its name"])
def test_a_process_killed_while_it_writes_leaves_nothing_that_counts(
    dies: str, theirs: Path, folder: Path
) -> None:
    with start(theirs, folder, dies) as process:
        assert process.wait(180) == -9
    (left,) = files(folder)
    assert left.suffix == kept_weights.WRITING
    opened = open_hugging_face(theirs, None)
    assert_same(load(opened, folder), NativeWeights(library(), opened.transformer, "int8", stored=opened))
    (file,) = files(folder)
    assert file.suffix == kept_weights.SUFFIX


def test_processes_that_load_at_once_all_get_them(theirs: Path, folder: Path) -> None:
    started = [start(theirs, folder) for _ in range(3)]
    said = [process.communicate(timeout=180)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert len(set(said)) == 1 and int(said[0]) > 0
    assert len(files(folder)) == 1
