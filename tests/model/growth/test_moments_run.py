"""Moments from a run's checkpoint into a grown folder, and from there into the run that continues with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoint import CheckpointError, load_config
from model.config import ConfigError
from model.growth import named_moments, upcycle_halves
from model.growth.__main__ import main
from model.growth.moments_file import MOMENTS_FILE, moments_of
from model.training.config.run_config import RunConfig, run_config_from
from model.training.run.checkpoints import load
from model.training.run.engine import OneProcess
from tests.model.training.run.training_runs import (
    data_for,
    equal_states,
    losses,
    run,
    run_config,
    run_document,
)

pytestmark = [pytest.mark.usefixtures("no_measuring"), pytest.mark.slow]
NARROW = {
    "d_model": 32,
    "n_heads": 2,
    "n_kv_heads": 1,
    "d_head": 16,
    "n_layers": 1,
    "max_context": 64,
    "d_ff": 48,
}


def parent_run(output: Path, optimizer: str = "adamw") -> Path:
    """The newest checkpoint of a dense model's run."""
    document = run_document(output, recipe={"optimizer": optimizer})
    document["model"] = {**NARROW, "tie_embeddings": True, "vocab_size": 32}
    run(run_config_from(document, name="parent"))
    return output / "checkpoints" / "step-00000006"


def going_on(output: Path, checkpoint: Path, *, moments: bool = True, **tables: Any) -> RunConfig:
    document = run_document(output, **tables)
    document["model"] = {"checkpoint": str(checkpoint), "moments": moments}
    return run_config_from(document, name="child")


@pytest.fixture
def grown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    parent_run(tmp_path / "parent")
    source = str(tmp_path / "parent" / "checkpoints" / "step-00000006")
    assert main(["upcycle", source, str(tmp_path / "grown"), "--moments", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["moments"] == len(moments_of(tmp_path / "grown"))
    return tmp_path / "grown"


def test_a_grown_folder_has_the_moments_of_its_parent_s_run(grown: Path, tmp_path: Path) -> None:
    snapshot, config = load(tmp_path / "parent" / "checkpoints" / "step-00000006")
    saved = snapshot.tensors["optimizer"]
    names = {label.rpartition(":")[0] for label in saved}
    own = {name: {key: saved[f"{name}:{key}"] for key in ("step", "exp_avg", "exp_avg_sq")} for name in names}
    expected, found = upcycle_halves(config).moments(own), moments_of(grown)
    assert expected.keys() == found.keys() and "embedding" in found
    for name, values in expected.items():
        assert values.keys() == found[name].keys()
        assert all(torch.equal(values[key], found[name][key]) for key in values), name
        assert float(found[name]["step"]) == 6
    assert load_config(grown)[1]["derivation"][0]["moments"] is True
    assert (grown / MOMENTS_FILE).stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_a_run_takes_them_up_and_goes_on_bit_for_bit(grown: Path, tmp_path: Path, optimizer: str) -> None:
    tables = {"recipe": {"optimizer": optimizer}}
    config = going_on(tmp_path / "straight", grown, **tables)
    engine = OneProcess(config, data_for(config))
    taken = named_moments(engine.trainer.model, engine.trainer.optimizer)
    assert taken.keys() == moments_of(grown).keys()
    assert float(taken["embedding"]["step"]) == 6
    _, whole = run(config)
    _, fresh = run(going_on(tmp_path / "fresh", grown, moments=False, **tables))
    assert losses(whole.events)[0] == losses(fresh.events)[0]
    assert losses(whole.events)[1:] != losses(fresh.events)[1:]
    stopped = going_on(tmp_path / "stopped", grown, **tables)
    run(stopped, stop_at=3)
    run(going_on(tmp_path / "stopped", grown, **tables), is_resumed=True)
    assert equal_states(tmp_path / "straight", tmp_path / "stopped")


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_another_run_goes_on_with_a_checkpoint_s_own_moments(tmp_path: Path, optimizer: str) -> None:
    checkpoint = parent_run(tmp_path / "parent", optimizer)
    before = torch.get_rng_state()
    moments = moments_of(checkpoint)
    assert torch.equal(before, torch.get_rng_state())
    config = going_on(tmp_path / "next", checkpoint, recipe={"optimizer": optimizer})
    trainer = OneProcess(config, data_for(config)).trainer
    taken = named_moments(trainer.model, trainer.optimizer)
    assert taken.keys() == moments.keys()
    for name, values in moments.items():
        torch.testing.assert_close(taken[name]["exp_avg"], values["exp_avg"])


def test_moments_follow_through_several_growths(grown: Path, tmp_path: Path) -> None:
    assert main(["experts", str(grown), str(tmp_path / "more"), "--factor", "2", "--moments"]) == 0
    assert moments_of(tmp_path / "more").keys() == moments_of(grown).keys()
    assert main(["experts", str(grown), str(tmp_path / "bare"), "--factor", "2"]) == 0
    assert not (tmp_path / "bare" / MOMENTS_FILE).exists()


def test_people_read_how_many_came_along(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = parent_run(tmp_path / "parent")
    assert main(["depth", str(source), str(tmp_path / "deep"), "--after", "0", "--moments"]) == 0
    assert f"of {len(moments_of(tmp_path / 'deep'))} parameters kept" in capsys.readouterr().out


def test_what_has_no_moments_is_named_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parent_run(tmp_path / "parent")
    model = tmp_path / "parent" / "model"
    assert main(["upcycle", str(model), str(tmp_path / "grown"), "--moments", "--json"]) == 1
    out, err = capsys.readouterr()
    assert (
        json.loads(out)["error"]["code"] == "checkpoint" and "has no moments of an optimiser: name a" in err
    )
    source = parent_run(tmp_path / "muon", "muon")
    assert main(["upcycle", str(source), str(tmp_path / "grown"), "--moments"]) == 2
    assert "is of a run with Muon" in capsys.readouterr().err
    (tmp_path / "parent" / "checkpoints" / "step-00000006" / "optimizer.safetensors").write_bytes(b"x")
    source = tmp_path / "parent" / "checkpoints" / "step-00000006"
    assert main(["upcycle", str(source), str(tmp_path / "grown"), "--moments"]) == 1
    assert "is damaged: its contents are not those that were written" in capsys.readouterr().err
    assert not (tmp_path / "grown").exists()


@pytest.mark.parametrize("content", [b"x", b""])
def test_damaged_and_foreign_moments_are_refused(grown: Path, tmp_path: Path, content: bytes) -> None:
    other = tmp_path / "other"
    assert main(["experts", str(grown), str(other), "--factor", "2", "--moments"]) == 0
    (other / MOMENTS_FILE).replace(grown / MOMENTS_FILE)
    config = going_on(tmp_path / "run", grown)
    with pytest.raises(CheckpointError, match=r"are not of its model: moments of .* have shape"):
        OneProcess(config, data_for(config))
    (grown / MOMENTS_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be used"):
        OneProcess(config, data_for(config))


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"model": {"moments": True}}, r"\[model\] moments come from a checkpoint"),
        ({"model": {"moments": 1}}, r"\[model\] moments must be true or false, not 1"),
    ],
)
def test_moments_without_a_checkpoint_are_refused(
    tmp_path: Path, tables: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_config(tmp_path, **tables)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"recipe": {"optimizer": "muon"}}, r"\[model\] moments are AdamW's"),
        ({"parallel": {"dp": 2}}, r"\[parallel\] does not go with \[model\] moments"),
    ],
)
def test_runs_that_cannot_take_them_up_are_refused(
    tmp_path: Path, tables: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        going_on(tmp_path / "run", tmp_path / "any", **tables)
