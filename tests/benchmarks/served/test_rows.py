"""Figures of deployments under load, and the trees that are deployed."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.patch.patches import apply_patch, parse_patch
from benchmarks.patch.policy import check_patch, load_policy
from benchmarks.patch.trees import BlobStore, shipped_tree
from benchmarks.served.__main__ import main, numbered_diff
from benchmarks.served.rows import deployment_rows, saving_rows
from benchmarks.served.site import Deployed

RESULT = {"best": {"decode": {"bound_log_ppm": 693_148, "estimate_log_ppm": 700_000, "pairs": 30}}}


def deployed(state: str = "superseded", served_s: float | None = 100.0) -> Deployed:
    return Deployed(state, "" if state == "superseded" else "slower", served_s, 60.0, RESULT)


def test_the_median_of_all_deployments_is_the_figure() -> None:
    rows = deployment_rows(
        [deployed(served_s=each) for each in (90.0, 100.0, 400.0)], answered=50, failures=[]
    )
    time, failed, canary = rows
    assert (time.value, time.holds) == (100.0, True)
    assert (failed.value, failed.holds, failed.how) == (0, True, "of 50")
    assert canary.value == 60.0


def test_one_failed_request_or_one_refused_deployment_misses_the_target() -> None:
    some = [deployed(), deployed("refused", None)]
    time, failed, _ = deployment_rows(some, answered=9, failures=["status 503"])
    assert not time.holds and "refused: slower" in time.how
    assert (failed.value, failed.holds) == (1, False) and "status 503" in failed.how


def test_nothing_measured_is_not_a_success() -> None:
    time, failed, canary = deployment_rows([deployed("failed", None)], answered=0, failures=[])
    assert (time.value, time.holds, failed.holds) == (None, None, None)
    assert canary.value == 60.0


def test_a_gains_saving_is_shown_with_its_suites_bound() -> None:
    (row,) = saving_rows("compiled executor", deployed(), "decode", 1_386_295)
    assert (row.value, row.name) == ("+100.0 %", "compiled executor: decode, at least")
    assert "+300.0 %" in row.how
    (unknown,) = saving_rows("compiled executor", deployed(), "decode", None)
    assert "not measured" in unknown.how


def test_each_numbered_tree_is_another_one_within_the_policy(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    shipped, hashes = shipped_tree(store), set()
    for number in range(3):
        patch = parse_patch(numbered_diff(number).encode())
        check_patch(load_policy(), patch)
        hashes.add(apply_patch(shipped, patch, store).hash)
    assert len(hashes | {shipped.hash}) == 4


def test_the_command_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "--model" in capsys.readouterr().out
