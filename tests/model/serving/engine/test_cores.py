"""Lists of cores, the settings that a machine's shape suggests, and the choice among what was measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.serving.engine import tune
from model.serving.engine.cores import Setting, allowed, bind, parsed, settings, shown
from model.serving.engine.tune import Trial, best

pytestmark = pytest.mark.slow


@given(st.sets(st.integers(0, 300), min_size=1))
def test_a_list_is_read_as_it_was_written(cores: set[int]) -> None:
    assert set(parsed(shown(cores))) == cores


def test_lists_are_linux_s() -> None:
    assert parsed("0-3,8\n") == (0, 1, 2, 3, 8)
    assert shown([8, 1, 0, 2]) == "0-2,8"


@pytest.mark.parametrize("text", ["", "a", "3-1", "0,0", "1-", "0-2,1", "-1"])
def test_text_that_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cores must be a list like 0-3,8"):
        parsed(text)


def machine(root: Path, nodes: list[str], siblings: dict[int, str]) -> Path:
    for number, cores in enumerate(nodes):
        folder = root / "node" / f"node{number}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(cores + "\n", encoding="ascii")
    for core, list_ in siblings.items():
        folder = root / "cpu" / f"cpu{core}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(list_ + "\n", encoding="ascii")
    return root


def test_one_memory_node_is_tried_before_all(tmp_path: Path) -> None:
    """Two nodes of three physical cores, of which each has two threads: 0 and 6, 1 and 7 ..."""
    system = machine(
        tmp_path, ["0-2,6-8", "3-5,9-11", ""], {core: f"{core % 6},{core % 6 + 6}" for core in range(12)}
    )
    found = [setting.cores for setting in settings(set(range(12)), system)]
    one = (0, 1, 2, 6, 7, 8)
    assert found == [one[:1], one[:2], one[:4], one, (*one, 3, 4), (*one, 3, 4, 5, 9, 10, 11)]
    only = [setting.cores for setting in settings({4, 9, 10}, system)]
    assert only == [(4,), (4, 9), (4, 9, 10)]


def test_a_machine_that_says_nothing_is_one_node(tmp_path: Path) -> None:
    assert [setting.cores for setting in settings({0, 1, 2}, tmp_path)] == [(0,), (0, 1), (0, 1, 2)]
    assert settings({5}, tmp_path)[0].options == "--threads 1 --cores 5"


def test_fewer_threads_win_where_they_are_as_fast() -> None:
    one, two, four = (
        Trial(Setting(tuple(range(n))), 1, several, 1) for n, several in ((1, 80), (2, 98), (4, 100))
    )
    assert best([one, two, four]) is two
    assert best([four, one]) is four


def test_cores_that_are_not_ours_are_refused() -> None:
    before = allowed()
    with pytest.raises(ValueError, match="core 9999 is not among those this process may use"):
        bind([min(before), 9999])
    assert allowed() == before


def test_the_command_measures_every_setting_and_chooses_one(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--model", "tiny", "--weights", "int4", "--batch", "3", "--seconds", "0.1", "--json"]
    assert tune.main(asked) == 0
    found = json.loads(capsys.readouterr().out)
    tried = [row["options"] for row in found["tokens_per_s"]]
    assert tried == [setting.options for setting in settings(allowed())]
    assert found["chosen"] in tried
    assert all(row[rate] > 0 for row in found["tokens_per_s"] for rate in ("one", "several", "prompt"))


def test_the_command_says_what_it_cannot_measure(capsys: pytest.CaptureFixture[str]) -> None:
    assert tune.main(["--model", "no-such-model"]) == 1
    assert "error: --threads 1 --cores" in (said := capsys.readouterr().err) and "no-such-model" in said
    with pytest.raises(SystemExit, match="2"):
        tune.main(["--model", "tiny", "--batch", "0"])


@pytest.mark.parametrize(
    ("package", "own", "expected"),
    [
        ("model.serving.node", None, "20000"),
        ("model.training.run.run", None, "20000"),
        ("model.serving", "7", "7"),
    ],
)
def test_waiting_threads_sleep_soon_unless_somebody_said_otherwise(
    package: str, own: str | None, expected: str
) -> None:
    """OpenMP reads its settings when torch is loaded, so they must be there by then."""
    code = (
        "import builtins, os; real = builtins.__import__; seen = []\n"
        "def noted(name, *rest):\n"
        "    if name == 'torch': seen.append(os.environ.get('GOMP_SPINCOUNT'))\n"
        "    return real(name, *rest)\n"
        f"builtins.__import__ = noted; import {package}; import torch; print(seen[0])"
    )
    env = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    if own is not None:
        env["GOMP_SPINCOUNT"] = own
    run = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, timeout=120
    )
    assert run.stdout.strip() == expected


@pytest.mark.parametrize("options", [["--batch", "0"], ["--seconds", "0"], ["--seconds", "nan"]])
def test_tuning_refuses_numbers_out_of_bounds(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        tune.main(["--model", "tiny", *options])
    assert ended.value.code == 2
    assert f"argument {options[0]}: must be a" in capsys.readouterr().err
