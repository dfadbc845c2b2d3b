"""The command that grows model folders: what it writes and says, what it refuses, and that it tells the truth."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoint import load_config, load_transformer, save_checkpoint
from model.config import ModelConfig
from model.growth import __main__ as command_module
from model.growth import insert_identity_blocks, upcycle_slices
from model.growth.__main__ import main
from model.growth.difference import logit_difference
from model.growth.methods import DEPTH, EXPERTS, UPCYCLING, Method
from model.presets import PRESETS
from model.transformer import Transformer

pytestmark = pytest.mark.slow

MOE = replace(PRESETS["tiny"], name="moe", vocab_size=50)
DENSE = replace(MOE, name="dense", moe=None)
FILES = {"tokenizer.json": "{}", "markup.json": "[]", "chat_template.jinja": "{{ x }}"}
METADATA = {"stop_tokens": [7], "licence": "Apache-2.0", "steps": 40}


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("GAINSHARE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "models"


def parent(folder: Path, config: ModelConfig, dtype: torch.dtype = torch.float32) -> Path:
    torch.manual_seed(4)
    save_checkpoint(
        folder, config, Transformer(config).to(dtype).state_dict(), metadata=METADATA, files=FILES
    )
    return folder


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    return parent(tmp_path / "dense", DENSE)


@pytest.fixture
def moe(tmp_path: Path) -> Path:
    return parent(tmp_path / "moe", MOE)


def result(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_a_grown_folder_has_all_that_its_parent_s_had(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    child = tmp_path / "child"
    options = ["--method", "slices", "--n-copies", "3", "--n-slices", "2", "--bias-balancing", "--json"]
    assert main(["upcycle", str(dense), str(child), *options]) == 0
    said = result(capsys)
    config, metadata = load_config(child)
    expected = upcycle_slices(DENSE, n_copies=3, n_slices=2, bias_balancing=True)
    assert config == replace(expected.config, name="child")
    state = expected.state(load_transformer(dense).state_dict())
    found = load_transformer(child).state_dict()
    assert state.keys() == found.keys() and all(torch.equal(state[name], found[name]) for name in state)
    assert {name: (child / name).read_text() for name in FILES} == FILES
    assert metadata["stop_tokens"] == [7] and metadata["licence"] == "Apache-2.0"
    assert "steps" not in metadata  # of the parent's training
    [step] = metadata["derivation"]
    assert (step["method"], step["parent"], step["preserves"]) == ("upcycle slices", "dense", True)
    assert step["arguments"] == {"n_copies": 3, "n_slices": 2, "bias_balancing": True}
    assert (said["folder"], said["preserves"]) == (str(child), True)
    sizes = {"parameters": config.total_parameters, "active_parameters": config.active_parameters}
    assert said["child"] == {**sizes, "layers": 2, "experts": 6, "top_k": 2}
    assert said["parent"]["parameters"] == DENSE.total_parameters and said["parent"]["experts"] is None
    assert said["logit_difference"]["tokens"] == 128
    assert said["logit_difference"]["largest"] < 2e-5 * said["logit_difference"]["largest_logit"]


@pytest.mark.parametrize(
    ("kind", "arguments", "preserves"),
    [
        ("dense", ["upcycle"], True),
        ("dense", ["upcycle", "--method", "copies", "--n-experts", "3", "--gate", "sigmoid"], True),
        ("dense", ["upcycle", "--noise", "0.1"], False),
        ("moe", ["experts"], True),
        ("moe", ["experts", "--method", "duplicate"], True),
        ("moe", ["experts", "--method", "duplicate", "--noise", "0.3"], False),
        ("moe", ["experts", "--factor", "4"], True),
        ("moe", ["depth", "--after", "0-1"], True),
        ("moe", ["depth", "--stack", "0-1,1"], False),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_said_to_be_kept_is_kept(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    arguments: list[str],
    preserves: bool,
    dtype: torch.dtype,
) -> None:
    source = parent(tmp_path / kind, DENSE if kind == "dense" else MOE, dtype)
    command, *options = arguments
    assert main([command, str(source), str(tmp_path / "child"), *options, "--json"]) == 0
    said = result(capsys)
    assert said["preserves"] is preserves
    share = said["logit_difference"]["largest"] / said["logit_difference"]["largest_logit"]
    assert (share < 2e-5) is preserves
    assert load_transformer(tmp_path / "child").embedding.dtype == dtype


def test_people_read_sizes_and_what_became_of_the_function(
    moe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["depth", str(moe), str(tmp_path / "deep"), "--after", "1"]) == 0
    total = insert_identity_blocks(MOE, [1]).config.total_parameters
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"deep is ready: {tmp_path / 'deep'} (depth identity)"
    assert lines[1].split() == ["parameters", f"{MOE.total_parameters:,}", "->", f"{total:,}"]
    assert any(line.split() == ["layers", "2", "->", "3"] for line in lines)
    assert not any("experts" in line for line in lines)  # they are as many
    assert "kept, up to rounding" in lines[-2] and "differ by 0 at most, on 128 random tokens" in lines[-1]


def test_a_model_may_grow_again_and_be_named_as_in_the_store(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parent(store / "small", DENSE)
    assert main(["upcycle", "small", str(tmp_path / "a"), "--no-measure", "--json"]) == 0
    assert result(capsys)["logit_difference"] is None
    assert main(["experts", str(tmp_path / "a"), str(tmp_path / "b"), "--no-measure"]) == 0
    assert "logits" not in capsys.readouterr().out
    derivation = load_config(tmp_path / "b")[1]["derivation"]
    assert [step["method"] for step in derivation] == ["upcycle halves", "experts split"]
    assert [step["parent"] for step in derivation] == ["dense", "a"]
    assert derivation[0]["parent_sha256"] != derivation[1]["parent_sha256"]


def test_logits_that_are_no_numbers_are_told_and_leave_the_document_json(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for target, options in (("a", ["--json"]), ("b", [])):
        assert main(["upcycle", str(dense), str(tmp_path / target), "--noise", "1e38", *options]) == 0
        out, err = capsys.readouterr()
        assert err.startswith("note: some logits") and "reduce --noise" in err
        assert "nan" not in out.lower() and "differ by" not in out
        if options:
            assert json.loads(out)["logit_difference"]["largest"] is None


def test_experts_that_tie_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A router of zeros gives all experts one score: which of them are taken is then an accident."""
    torch.manual_seed(4)
    state = Transformer(MOE).state_dict()
    tied = {
        name: torch.zeros_like(value) if "router" in name else value.clone() for name, value in state.items()
    }
    save_checkpoint(tmp_path / "tied", MOE, tied, metadata={}, files={})
    tie = ["experts", str(tmp_path / "tied"), str(tmp_path / "child"), "--method", "duplicate"]
    assert main(tie) == 0
    assert "note: duplicate keeps the function where no two experts" in capsys.readouterr().err
    assert logit_difference(tmp_path / "tied", tmp_path / "child").relative > 0.01


def test_copies_that_would_stay_equal_are_told(
    moe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--method", "duplicate", "--no-measure"]
    assert main(["experts", str(moe), str(tmp_path / "equal"), *options]) == 0
    assert "without --noise the copies of an expert stay equal" in capsys.readouterr().err
    assert main(["experts", str(moe), str(tmp_path / "parted"), *options, "--noise", "0.01"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("moe", ["upcycle"], "already has experts"),
        ("dense", ["experts"], "has no experts yet: upcycle it first"),
        ("moe", ["experts", "--factor", "1"], "at least 2"),
        ("moe", ["experts", "--factor", "3"], "cannot be split into 3"),
        ("moe", ["experts", "--noise", "0.1", "--method", "split"], "--noise is not an option of split"),
        (
            "dense",
            ["upcycle", "--n-copies", "3"],
            "--n-copies is not an option of halves, which takes --n-experts",
        ),
        ("dense", ["upcycle", "--method", "slices", "--n-slices", "3"], "3 equal parts"),
        ("dense", ["upcycle", "--n-experts", "3", "--top-k", "4"], "top_k must not exceed the 3 experts"),
        ("moe", ["depth", "--after", "2"], "different layers from 0 to 1"),
        ("moe", ["depth", "--stack", "0"], "at least once"),
    ],
)
def test_growths_that_a_model_cannot_have_are_usage_errors(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    arguments: list[str],
    message: str,
) -> None:
    source = parent(tmp_path / kind, DENSE if kind == "dense" else MOE)
    command, *options = arguments
    assert main([command, str(source), str(tmp_path / "child"), *options, "--json"]) == 2
    out, err = capsys.readouterr()
    assert message in err and len(err.splitlines()) == 1
    assert json.loads(out)["error"]["code"] == "usage" and message in json.loads(out)["error"]["message"]
    assert not (tmp_path / "child").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["widen", "a", "b"],
        ["depth", "a", "b"],
        ["depth", "a", "b", "--after", "1", "--stack", "0"],
        ["depth", "a", "b", "--after", "1,x"],
        ["depth", "a", "b", "--after", "-1"],
        ["depth", "a", "b", "--stack", "0-99999999999"],
        ["upcycle", "a", "b", "--n-experts", "0"],
        ["upcycle", "a", "b", "--n-experts", str(10**30)],
        ["upcycle", "a", "b", "--seed", str(2**63)],
        ["upcycle", "a", "b", "--noise", "nan"],
        ["upcycle", "a", "b", "--noise", "-0.1"],
        ["upcycle", "a"],
    ],
    ids=" ".join,
)
def test_wrong_command_lines_end_with_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "error: " in capsys.readouterr().err


@contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    """The system refuses to write more into any file, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([*arguments]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and len(err.splitlines()) == 1
    return err


def test_folders_that_cannot_be_used_are_named(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    child = tmp_path / "child"
    assert "nowhere has no model" in refused(capsys, "upcycle", str(tmp_path / "nowhere"), str(child))
    hub = tmp_path / "hub"
    hub.mkdir()
    (hub / "config.json").write_text('{"model_type": "llama"}')
    assert f"gainshare model import {hub}" in refused(capsys, "upcycle", str(hub), str(child))
    (dense / "markup.json").write_bytes(b"\xff\xfe\xfd")
    assert "markup.json is not text" in refused(capsys, "upcycle", str(dense), str(child))
    (dense / "model.safetensors").write_bytes(b"short")
    assert "model.safetensors cannot be used" in refused(capsys, "upcycle", str(dense), str(child))
    assert not child.exists()


def test_a_target_that_is_there_is_left_alone(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "mine.txt").write_text("mine")
    assert "exists already" in refused(capsys, "upcycle", str(dense), str(notes))
    assert (notes / "mine.txt").read_text() == "mine"
    assert "mine.txt" in refused(capsys, "upcycle", str(dense), str(notes / "mine.txt" / "child"))
    assert [file.name for file in notes.iterdir()] == ["mine.txt"]


def test_a_file_that_cannot_grow_leaves_nothing_behind(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.iterdir())
    with largest_file(10_000):
        message = refused(capsys, "upcycle", str(dense), str(tmp_path / "child"))
    assert "child" in message and "File too large" in message
    assert sorted(tmp_path.iterdir()) == before


def test_a_growth_that_no_memory_holds_says_so(
    moe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(message: str) -> Callable[..., None]:
        def grow(*_: object, **__: object) -> None:
            raise RuntimeError(message)

        return grow

    monkeypatch.setattr(command_module, "grow_folder", raises("DefaultCPUAllocator: can't allocate memory"))
    assert "not enough memory" in refused(capsys, "experts", str(moe), str(tmp_path / "child"))
    monkeypatch.setattr(command_module, "grow_folder", raises("a slip of ours"))
    with pytest.raises(RuntimeError, match="a slip"):
        main(["experts", str(moe), str(tmp_path / "child")])


@pytest.mark.parametrize(
    ("command", "methods"), [("upcycle", UPCYCLING), ("experts", EXPERTS), ("depth", DEPTH)]
)
def test_every_method_s_options_are_on_the_command_line(
    command: str, methods: dict[str, Method], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for method in methods.values():
        for name in method.options:
            assert ("--stack" if name == "sources" else f"--{name.replace('_', '-')}") in text
    assert "--json" in text
