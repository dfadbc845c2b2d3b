"""`python -m benchmarks.power real`: rounds, records and rows, with a judge that answers from made-up samples."""

import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import bench
from benchmarks.aa import pair_orders
from benchmarks.evidence.samples import read_samples
from benchmarks.patch.trees import BlobStore, read_tree, shipped_tree
from benchmarks.power import real
from benchmarks.power.__main__ import main
from benchmarks.power.measured import measured_rows
from benchmarks.power.real import CALIBRATION_COLUMNS, Measuring, columns_for
from benchmarks.power.record import MeasuredRun, Record, RecordError
from benchmarks.power.resample import resample_rows, resampled
from benchmarks.power.variants import no_op_folder, shipped_folder, slower_folder
from benchmarks.report import MeasuringFailed
from benchmarks.statistics.diagnostics import PairOrder
from tests.benchmarks.evidence.evidence_maker import make_document, make_pairs

pytestmark = pytest.mark.slow

COST = 1.10  # what the made-up judge finds the calibration's redundant work to cost


class MadeUpJudge:
    """Stands where `benchmarks.bench.measure` does: base's redundant columns cost time, nothing else does."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []
        self.before: Callable[[int], None] = lambda number: None

    def __call__(self, *, kind: str, base: str, candidate: str, **rest: Any) -> dict[str, Any]:
        self.before(len(self.calls))
        self.calls.append((kind, Path(base).name, Path(candidate).name))
        _, _, columns = Path(base).name.partition("slower-")
        effect = COST ** (int(columns or 0) / CALIBRATION_COLUMNS[0])
        pairs = make_pairs(effect, 30 if kind == "confirmation" else 12, seed=len(self.calls))
        return {"document": make_document(pairs, kind)}


@pytest.fixture
def judge() -> MadeUpJudge:
    return MadeUpJudge()


@pytest.fixture
def measuring(judge: MadeUpJudge, tmp_path: Path) -> Measuring:
    return Measuring(Record("moe_forward", "tiny"), tmp_path / "record.json", tmp_path / "trees", judge)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resample_rows, "__defaults__", (4_000,))


def test_a_round_takes_a_no_op_twice_and_each_gain_through_both_stages(
    measuring: Measuring, judge: MadeUpJudge
) -> None:
    measuring.until_done(measuring.rounds(2))
    kinds = [(kind, base.partition("-")[0], candidate) for kind, base, candidate in judge.calls]
    assert kinds == [
        ("confirmation", "slower", "shipped"),
        *[
            step
            for number in range(2)
            for step in [
                ("gate", "shipped", f"no-op-{number}"),
                ("confirmation", "shipped", f"no-op-{number}"),
                *[("gate", "slower", "shipped"), ("confirmation", "slower", "shipped")] * 2,
            ]
        ],
    ]
    assert Record.load(measuring.path) == measuring.record


def test_the_table_says_what_was_found(measuring: Measuring) -> None:
    measuring.until_done(measuring.rounds(3))
    rows = {row.name: row for row in measured_rows(measuring.record)}
    assert rows["rebuilt no-op patches that pass the gate"].value == 0
    assert rows["rebuilt no-op patches that pass the gate"].holds is None  # three runs show nothing
    assert rows["noise per pair of rebuilt no-ops"].value == pytest.approx(0.5, abs=0.15)
    assert rows["cost of redundant work, for calibration"].value == pytest.approx(10.0, abs=0.6)
    sizes = sorted(float(str(row.value)) for name, row in rows.items() if name.endswith("its size"))
    assert sizes == [pytest.approx(2.0, abs=0.25), pytest.approx(5.0, abs=0.4)]
    assert all(row.value == 1.0 for name, row in rows.items() if name.endswith(": found"))
    shares = [float(str(row.value)) for name, row in rows.items() if name.endswith("share paid")]
    assert len(shares) == 2 and all(0.5 < share <= 1.05 for share in shares)
    assert any(name.startswith("false gain, recorded pairs in blocks of 6") for name in rows)


def test_an_interruption_keeps_what_was_measured(
    measuring: Measuring, judge: MadeUpJudge, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(number: int) -> None:
        if number == 3:
            raise KeyboardInterrupt

    judge.before = interrupt
    measuring.until_done(measuring.rounds(5))
    assert [run.what for run in Record.load(measuring.path).runs] == ["calibration", "no-op", "no-op"]
    assert measured_rows(measuring.record)
    assert "interrupted" in capsys.readouterr().err


def test_no_ops_alone_go_on_where_a_killed_command_stopped(
    measuring: Measuring, judge: MadeUpJudge, tmp_path: Path
) -> None:
    def killed(number: int) -> None:
        if number == 3:
            raise SystemExit(137)

    judge.before = killed
    with pytest.raises(SystemExit):
        measuring.until_done(measuring.no_ops(5))
    judge.before = lambda number: None
    kept = real.record_to_continue(measuring.path, "moe_forward", "tiny")
    assert len(kept.of("no-op", "gate")) == 3
    again = Measuring(kept, measuring.path, tmp_path / "other-trees", judge)
    again.until_done(again.no_ops(5))
    assert [candidate for _, _, candidate in judge.calls] == [f"no-op-{number}" for number in range(5)]
    (row,) = (row for row in measured_rows(again.record) if "pass the gate" in row.name)
    assert (row.value, row.unit) == (0, "of 5")


def test_a_record_of_another_suite_is_not_continued(measuring: Measuring) -> None:
    measuring.until_done(measuring.no_ops(1))
    with pytest.raises(RecordError, match="record of moe_forward/tiny"):
        real.record_to_continue(measuring.path, "decode", "tiny")


def test_no_run_starts_after_the_deadline(measuring: Measuring, judge: MadeUpJudge) -> None:
    measuring.deadline = time.monotonic()
    measuring.until_done(measuring.rounds(5))
    assert len(judge.calls) == 1


def broken(reason: str) -> dict[str, Any]:
    event = {"kind": "infrastructure_error", "detail": reason}
    return {"document": make_document(make_pairs(1.0, 3), "gate", events=[event])}


def test_the_machines_own_trouble_is_measured_again_and_not_recorded(
    measuring: Measuring, judge: MadeUpJudge
) -> None:
    answers: Iterator[Any] = itertools.chain([broken("no core was free")], itertools.repeat(None))
    measuring.judge = lambda **call: next(answers) or judge(**call)
    run = measuring.run("no-op", "gate", Path("shipped"), Path("no-op-1"))
    assert run.verdict == "no_gain"
    assert len(measuring.record.runs) == 1


def test_trouble_that_does_not_stop_ends_the_measuring(
    measuring: Measuring, capsys: pytest.CaptureFixture[str]
) -> None:
    measuring.judge = lambda **call: broken("no core was free")
    with pytest.raises(MeasuringFailed, match="no core was free"):
        measuring.run("no-op", "gate", Path("shipped"), Path("no-op-1"))
    measuring.until_done(measuring.rounds(1))
    assert "stopped: 3 runs in a row" in capsys.readouterr().err
    assert measuring.record.runs == []


def calibration(cost: float, columns: int = 1_000) -> MeasuredRun:
    return MeasuredRun("calibration", "confirmation", "gain", 24, 0, (cost,) * 24, 1_000, columns)


def test_columns_are_in_proportion_to_their_cost() -> None:
    assert columns_for(0.05, calibration(2 * math.log1p(0.05))) == 500
    assert columns_for(1e-9, calibration(0.10)) == 1
    with pytest.raises(ValueError, match="quieter machine"):
        columns_for(0.05, calibration(0.04))
    with pytest.raises(ValueError, match="quieter machine"):
        columns_for(0.05, MeasuredRun("calibration", "confirmation", "no_gain", 0, None, (), 1))


def test_calibration_takes_more_work_until_its_cost_is_measurable(
    measuring: Measuring, judge: MadeUpJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MadeUpJudge.__call__.__globals__, "COST", 1.02)
    measuring.deadline = time.monotonic() + 60
    measuring.until_done(measuring.rounds(1))
    assert [base for _kind, base, _ in judge.calls[:3]] == ["slower-1024", "slower-4096", "shipped"]


def run_of(pairs: tuple[float, ...], what: str = "no-op", kind: str = "confirmation") -> MeasuredRun:
    return MeasuredRun(what, kind, "no_gain", len(pairs), 0, pairs, 1_000)


def test_a_record_survives_the_file(tmp_path: Path) -> None:
    record = Record("prefill", "demo", [run_of((0.1, -0.25)), run_of((), "gain", "gate")])
    record.save(tmp_path / "deep" / "record.json")
    assert Record.load(tmp_path / "deep" / "record.json") == record
    assert record.of("gain", "gate") == [record.runs[1]]
    assert record.of("gain", columns=7) == []


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema": "other/1"}', '{"schema": "gainshare.power.real/1"}']
)
def test_other_files_are_no_record(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=r"other\.json"):
        Record.load(path)


def test_blocks_keep_neighbours_together() -> None:
    runs = [tuple(float(10 * run + place) for place in range(8)) for run in range(3)]
    drawn = resampled(runs, 4, np.random.default_rng(1), 50)
    assert drawn.shape == (50, 144)
    steps = np.diff(drawn.reshape(50, 36, 4), axis=2)
    assert (steps == 1.0).all()
    with pytest.raises(ValueError, match="no recorded run has 9 pairs"):
        resampled(runs, 9, np.random.default_rng(1), 1)


def test_resampled_noise_passes_seldom_and_a_shifted_one_is_seen() -> None:
    noise = 0.015 * np.random.default_rng(3).standard_normal((6, 30))
    rows = {row.name: row for row in resample_rows([tuple(run) for run in noise.tolist()])}
    moved = [row for name, row in rows.items() if "moved to median zero" in name]
    assert len(moved) == 3 and all(float(str(row.value)) < 0.005 for row in moved)
    shifted = {row.name: row for row in resample_rows([tuple(run) for run in (noise + 0.03).tolist()])}
    as_recorded = [row for name, row in shifted.items() if "as recorded" in name]
    assert all(row.holds is False and float(str(row.value)) > 0.9 for row in as_recorded)


def test_variants_have_hashes_of_their_own_and_compute_the_same(open_folder: Path) -> None:
    import sys

    import torch

    folders = [
        shipped_folder(open_folder),
        no_op_folder(open_folder, 0),
        no_op_folder(open_folder, 1),
        slower_folder(open_folder, 64),
    ]
    store = BlobStore(open_folder / "blobs")
    hashes = [read_tree(folder, store).hash for folder in folders]
    assert len(set(hashes)) == 4
    assert hashes[0] == shipped_tree(store).hash
    answers, spent = [], []
    ours = {
        name: module for name, module in sys.modules.items() if name == "model" or name.startswith("model.")
    }
    for folder in folders:
        for name in [name for name in sys.modules if name == "model" or name.startswith("model.")]:
            del sys.modules[name]
        sys.path.insert(0, str(folder))
        try:
            from model.layers.moe.experts import apply_experts

            assert apply_experts.__code__.co_filename.startswith(str(folder))
            torch.manual_seed(0)
            weights = [torch.randn(4, 16, 8), torch.randn(4, 16, 8), torch.randn(4, 8, 16)]
            x_TD, experts_TK = torch.randn(6, 8), torch.randint(0, 4, (6, 2))
            with torch.profiler.profile() as profile, torch.no_grad():
                answers.append(apply_experts(x_TD, torch.rand(6, 2), experts_TK, *weights))
            spent.append(sum(event.count for event in profile.key_averages() if event.key == "aten::linear"))
        finally:
            sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name == "model" or name.startswith("model.")]:
        del sys.modules[name]
    sys.modules.update(ours)
    assert all(torch.equal(answer, answers[0]) for answer in answers)
    assert spent[:3] == [spent[0]] * 3
    assert spent[3] == spent[0] + 1  # the product that no one reads


def test_redundant_work_has_a_size() -> None:
    with pytest.raises(ValueError, match="columns"):
        slower_folder(Path("/nowhere"), 0)


def test_the_orders_of_pairs_follow_their_ratios() -> None:
    document = make_document(make_pairs(1.0, 7, cases=("short", "long")), "aa")
    samples = read_samples(document)
    orders = pair_orders(samples)
    assert len(orders) == sum(map(len, samples.by_case.values())) == 14
    first = next(pair for pair in samples.complete if pair["case"] == next(iter(samples.by_case)))
    assert orders[0].base_first == (first["spawn_order"][0] == "base")
    assert isinstance(orders[0], PairOrder) and abs(orders[0].first_turn_log or 1.0) < 0.05


def test_the_table_of_an_earlier_record_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = 0.01 * np.random.default_rng(1).standard_normal((2, 30))
    path = tmp_path / "record.json"
    Record("moe_forward", "tiny", [run_of(tuple(run)) for run in noise.tolist()]).save(path)
    assert main(["real", "--resample", str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["command"] == f"python -m benchmarks.power real --resample {path}"
    assert all(row["value"] is None or math.isfinite(row["value"]) for row in document["rows"])
    assert main(["real", "--resample", str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err


def test_a_suite_that_does_not_exist_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "record.json"
    assert real.main(["--suite", "nothing", "--record", str(record)]) == 2
    assert "nothing" in capsys.readouterr().err
    assert not record.exists()


@pytest.mark.parametrize(
    "wrong", [("--minutes", "-1"), ("--minutes", "nan"), ("--runs", "0"), ("--pairs", "6")]
)
def test_amounts_that_measure_nothing_are_refused(
    wrong: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        real.main([*wrong, "--record", str(tmp_path / "record.json")])
    assert "--runs and --minutes are above zero, --pairs at least 24" in capsys.readouterr().err


def test_a_record_that_cannot_be_written_is_named_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(real, "_measure", lambda _: pytest.fail("it was measured first"))
    assert real.main(["--record", str(tmp_path)]) == 2
    assert "this is a folder" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.sandbox
def test_the_real_judge_takes_a_round(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.measure is Measuring.judge
    record = tmp_path / "record.json"
    arguments = [
        "--preset",
        "tiny",
        "--runs",
        "1",
        "--minutes",
        "4",
        "--pairs",
        "24",
        "--record",
        str(record),
    ]
    assert real.main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    names = {row["name"] for row in document["rows"]}
    assert "cost of redundant work, for calibration" in names
    assert Record.load(record).of("calibration")
