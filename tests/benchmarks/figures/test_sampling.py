"""The sampling benchmark prints every figure in the one shape, and its counts do not depend on the machine."""

from __future__ import annotations

import json

import pytest

from benchmarks.figures import sampling
from model.serving.executors.plain_torch import TorchExecutor
from model.serving.node.served import tiny


def test_every_figure_is_there_and_positive(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "VOCABULARY", 1200)
    monkeypatch.setattr(sampling, "_tokenizer", lambda: None)
    monkeypatch.setattr(sampling.measure, "__defaults__", (3,))
    assert sampling.main(["--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) == 2 * len(sampling.SETTINGS) + 4 + 2 + 1
    assert all(row["value"] > 0 for row in rows[:-1])
    assert rows[-1]["value"] is None and "fetch" in rows[-1]["how"]  # said, where a tokenizer is missing


def test_lookups_follow_what_repeats_and_lose_nothing_elsewhere() -> None:
    per_step, speed_up = sampling.follow(list(range(40)) * 10)
    assert per_step > 4
    assert 2 < speed_up < per_step
    assert sampling.follow(list(range(400))) == (1.0, 1.0)


def test_the_text_rows_name_the_speed_up_and_the_count() -> None:
    rows = list(sampling._lookup_rows(sampling.ByteTokenizer()))
    assert [row.unit for row in rows] == ["tokens/step", "x"] * 3
    assert all(row.value >= sampling.LEAST_SPEED_UP for row in rows)  # type: ignore[operator]


def test_more_drafts_cost_more_than_none() -> None:
    transformer = tiny().transformer
    rows = list(sampling.cost_rows(TorchExecutor(transformer, 8), transformer.config.vocab_size, rounds=3))
    assert [row.name for row in rows] == [f"cost of each of {n} drafts" for n in (1, 2, 4)]
    assert all(row.value > -1 for row in rows)  # type: ignore[operator]  # a share of a step, whatever the noise
    assert "TorchExecutor" in rows[0].how
