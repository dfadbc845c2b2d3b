"""States of training: captured, written, damaged, killed, restored, and going on bit for bit."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from model.checkpoint import load_transformer
from model.training.config.recipe import OptimizerKind, Recipe
from model.training.run import checkpoints as checkpoints_module
from model.training.run.checkpoints import Checkpoints, load
from model.training.run.errors import DamagedCheckpointError, SavedStateError
from model.training.run.state import Progress, Snapshot, capture, restore
from model.training.run.trainer import Trainer
from tests.model.training.run.training_runs import DENSE, MOE, model_of, packed_batch, same_state

pytestmark = pytest.mark.slow

RECIPE = Recipe(warmup_steps=2, learning_rate=1e-2, ema_decay=0.9)
STREAM = {"format": "test", "place": [1, 2]}


def trained(
    steps: int, *, seed: int = 0, recipe: Recipe = RECIPE, config: object = MOE, **more: object
) -> Trainer:
    trainer = Trainer(model_of(config, seed), recipe, **more)  # type: ignore[arg-type]
    for step in range(steps):
        trainer.update([packed_batch(step)])
    return trainer


def snapshot_of(trainer: Trainer) -> Snapshot:
    return capture(trainer, Progress(trainer.steps, 48 * trainer.steps, 7, 1.5), STREAM)


def written(folder: Path, trainer: Trainer, keep: int = 2) -> Path:
    return Checkpoints(folder, keep=keep).save(
        snapshot_of(trainer), trainer.model.config, metadata={"seed": 0}
    )


def everything(trainer: Trainer) -> dict[str, torch.Tensor]:
    state = {f"model.{name}": value for name, value in trainer.model.state_dict().items()}
    for name, parameter in trainer.model.named_parameters():
        for key, value in trainer.optimizer.state[parameter].items():
            state[f"optimizer.{name}.{key}"] = torch.as_tensor(value)
    if trainer.average is not None:
        state |= {f"average.{name}": value for name, value in trainer.average.weights.items()}
    return state


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon", "adamw_8bit"])
@pytest.mark.parametrize("config", [DENSE, MOE], ids=["dense", "moe"])
def test_three_steps_and_three_after_a_restart_are_six(
    tmp_path: Path, optimizer: OptimizerKind, config: object, precision: str
) -> None:
    recipe = replace(RECIPE, optimizer=optimizer)
    straight = trained(6, recipe=recipe, config=config, precision=precision)
    first = trained(3, recipe=recipe, config=config, precision=precision)
    folder = written(tmp_path, first)
    snapshot, _ = load(folder)
    # Built with other random weights, and some steps ahead: nothing of it may survive.
    second = trained(2, seed=9, recipe=recipe, config=config, precision=precision)
    progress = restore(second, snapshot)
    assert progress == Progress(3, 144, 7, 1.5) and snapshot.facts["stream"] == STREAM
    assert same_state(everything(second), everything(first))
    losses = [second.update([packed_batch(step)]).loss for step in range(3, 6)]
    again = trained(3, recipe=recipe, config=config, precision=precision)
    assert losses == [again.update([packed_batch(step)]).loss for step in range(3, 6)]
    assert same_state(everything(second), everything(straight))
    assert second.steps == 6


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    trainer = trained(1)
    torch.manual_seed(77)
    torch.rand(5)
    snapshot, _ = load(written(tmp_path, trainer))
    expected = torch.rand(3)
    torch.manual_seed(1)
    restore(trained(0), snapshot)
    assert torch.equal(torch.rand(3), expected)


def test_a_loss_scale_is_part_of_the_state(tmp_path: Path) -> None:
    trainer = trained(1)
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    trainer.update([packed_batch()])
    snapshot, _ = load(written(tmp_path, trainer))
    other = trained(0)
    other.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    restore(other, snapshot)
    assert other.scaler.state_dict() == trainer.scaler.state_dict()


def test_a_checkpoint_is_a_model_folder_too(tmp_path: Path) -> None:
    trainer = trained(2)
    model = load_transformer(written(tmp_path, trainer))
    tokens = packed_batch().tokens_BS
    assert torch.equal(model(tokens), trainer.logits(tokens))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: trained(1, config=DENSE), "not of this model"),
        (lambda: trained(1, recipe=replace(RECIPE, optimizer="muon")), "optimizer 'adamw'"),
    ],
    ids=["shape", "optimizer"],
)
def test_another_run_s_state_is_refused(tmp_path: Path, build: Callable[[], Trainer], message: str) -> None:
    snapshot, _ = load(written(tmp_path, trained(1)))
    with pytest.raises(SavedStateError, match=message):
        restore(build(), snapshot)


def test_an_average_that_was_not_kept_is_asked_about(tmp_path: Path) -> None:
    snapshot, _ = load(written(tmp_path, trained(1, recipe=replace(RECIPE, ema_decay=None))))
    with pytest.raises(SavedStateError, match="no moving average"):
        restore(trained(0), snapshot)
    without = trained(0, recipe=replace(RECIPE, ema_decay=None))
    restore(without, load(written(tmp_path, trained(1)))[0])  # one too many is left alone
    assert without.average is None


def test_the_newest_are_kept(tmp_path: Path) -> None:
    trainer, store = trained(0), Checkpoints(tmp_path, keep=2)
    for _ in range(4):
        trainer.update([packed_batch()])
        saved = store.save(snapshot_of(trainer), trainer.model.config, metadata={})
        assert store.folders()[-1] == saved and len(store.folders()) <= 3
        store.mark_good(saved)
    assert [folder.name for folder in store.folders()] == ["step-00000003", "step-00000004"]
    newest = store.newest()
    assert newest is not None and newest.snapshot.progress.step == 4 and newest.damaged == ()


def test_an_older_one_stays_until_a_newer_one_is_good(tmp_path: Path) -> None:
    trainer, store = trained(0), Checkpoints(tmp_path, keep=1)

    def save() -> Path:
        trainer.update([packed_batch()])
        return store.save(snapshot_of(trainer), trainer.model.config, metadata={})

    good = save()
    assert store.before(good) is None
    store.mark_good(good)
    doubtful = [save(), save()]
    assert store.folders() == [good, *doubtful] and store.before(doubtful[0]) == good
    store.mark_good(doubtful[0])
    assert store.folders() == doubtful
    again = Checkpoints(tmp_path, keep=1)  # another process knows of none that is good
    trainer.update([packed_batch()])
    again.save(snapshot_of(trainer), trainer.model.config, metadata={})
    assert again.folders()[:2] == doubtful


def test_an_empty_store_has_no_newest_and_keeps_at_least_one(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "none", keep=1).newest() is None
    with pytest.raises(ValueError, match="at least one"):
        Checkpoints(tmp_path, keep=0)


def flip(file: Path) -> None:
    """One bit in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "file", ["model.safetensors", "optimizer.safetensors", "average.safetensors", "random.safetensors"]
)
@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda file: file.write_bytes(b"")])
def test_a_damaged_checkpoint_is_passed_over_by_name(
    tmp_path: Path, file: str, damage: Callable[[Path], object]
) -> None:
    trainer = trained(1)
    written(tmp_path, trainer)
    trainer.update([packed_batch(5)])
    damage(written(tmp_path, trainer) / file)
    found = Checkpoints(tmp_path, keep=2).newest()
    assert found is not None and found.snapshot.progress.step == 1
    assert len(found.damaged) == 1 and f"step-00000002/{file}" in found.damaged[0]


def test_a_changed_fact_is_seen(tmp_path: Path) -> None:
    state = written(tmp_path, trained(1)) / "state.json"
    document = json.loads(state.read_text())
    document["facts"]["progress"]["tokens"] += 1
    state.write_text(json.dumps(document))
    with pytest.raises(DamagedCheckpointError, match=r"state.json is damaged"):
        Checkpoints(tmp_path, keep=1).newest()


def test_a_state_of_another_version_says_so(tmp_path: Path) -> None:
    state = written(tmp_path, trained(1)) / "state.json"
    state.write_text(state.read_text().replace("gainshare.training/1", "gainshare.training/9"))
    with pytest.raises(DamagedCheckpointError, match=r"format 'gainshare.training/9'"):
        load(state.parent)


def test_a_later_damaged_one_does_not_push_the_good_one_out(tmp_path: Path) -> None:
    trainer = trained(2)
    flip(written(tmp_path, trainer, keep=1) / "model.safetensors")
    earlier = trained(1)
    saved = written(tmp_path, earlier, keep=1)
    store = Checkpoints(tmp_path, keep=1)
    assert store.folders() == [saved]
    newest = store.newest()
    assert newest is not None and newest.folder == saved


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_last_good_one_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    trainer = trained(1)
    saved = written(tmp_path, trainer, keep=1)
    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    trainer.update([packed_batch(5)])

    def refuse(_tensors: object, file: Path) -> None:
        file.write_bytes(b"half of it")
        raise SafetensorError(
            f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})"
        )

    monkeypatch.setattr(checkpoints_module, "save_file", refuse)
    with pytest.raises(OSError, match="step-00000002") as raised:
        written(tmp_path, trainer, keep=1)
    assert raised.value.errno == number
    assert list(tmp_path.iterdir()) == [saved]
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before


def test_what_a_killed_save_left_is_removed(tmp_path: Path) -> None:
    saved = written(tmp_path, trained(1))
    (tmp_path / ".step-00000002.new-abc").mkdir()
    (tmp_path / ".step-00000002.new-abc" / "model.safetensors").write_bytes(b"half")
    store = Checkpoints(tmp_path, keep=1)
    assert store.folders() == [saved]
    store.remove_leftovers()
    assert list(tmp_path.iterdir()) == [saved]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    written(tmp_path, trained(1, seed=4))
    saved = written(tmp_path, trained(1))
    assert same_state(load(saved)[0].tensors["model"], trained(1).model.state_dict())
