"""The faster way of each kernel follows from measured rates, which are kept once for each processor."""

from __future__ import annotations

import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from model import kernel_ways
from model.kernel_ways import KernelWaysError, Rates, Ways

#: One core of an AMD EPYC with AVX512_BF16, of an Intel Xeon 6 without AMX, and of an AMD EPYC with AVX2 alone.
PAIRS_AHEAD = Rates(fma=112e9, dot=224e9, fp32_own=109e9, fp32_torch=97e9, bf16_own=219e9, bf16_torch=213e9)
PAIRS_BEHIND = Rates(fma=159e9, dot=86e9, fp32_own=120e9, fp32_torch=142e9, bf16_own=130e9, bf16_torch=83e9)
NO_PAIRS = Rates(fma=102e9, dot=0, fp32_own=81e9, fp32_torch=86e9, bf16_own=78e9, bf16_torch=3e9)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of libraries, and none at the install."""
    monkeypatch.setattr(kernel_ways, "BESIDE_THE_CODE", tmp_path / "install")
    monkeypatch.delenv(kernel_ways.FORCED, raising=False)
    (tmp_path / "native").mkdir()
    return tmp_path / "native"


@pytest.mark.parametrize(
    ("rates", "ways"),
    [
        (PAIRS_AHEAD, Ways("dot", "own", "own", 512)),
        (PAIRS_BEHIND, Ways("fma", "torch", "own", 512)),
        (NO_PAIRS, Ways("fma", "torch", "own", 8)),  # torch's bf16 is slow for any number of rows
        (replace(PAIRS_AHEAD, dot=112e9), Ways("dot", "own", "own", 512)),  # equal: widening takes time
        (replace(PAIRS_AHEAD, bf16_torch=900e9), Ways("dot", "own", "torch", 512)),  # AMX
    ],
)
@pytest.mark.usefixtures("folder")
def test_the_faster_way_is_taken(rates: Rates, ways: Ways) -> None:
    assert kernel_ways.ways_of(rates) == ways


def test_each_way_is_a_definition_and_none_leaves_it_to_the_sources() -> None:
    assert Ways("fma", "torch", "own", 8).flags() == (
        "-DBF16_BY_FMA=1",
        "-DFP32_LINEAR_BY_TORCH=1",
        "-DBF16_LINEAR_BY_TORCH=0",
        "-DBF16_LINEAR_LEAST_ROWS=8",
    )
    assert Ways("dot").flags() == ("-DBF16_BY_FMA=0",)
    assert kernel_ways.UNMEASURED.flags() == ()


def test_a_way_can_be_forced_where_the_processor_has_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(kernel_ways.FORCED, "fma")
    assert kernel_ways.ways_of(PAIRS_AHEAD).bf16 == "fma"
    assert "by fma as GAINSHARE_BF16 forces" in kernel_ways.text_of(PAIRS_AHEAD)
    monkeypatch.setenv(kernel_ways.FORCED, "dot")
    assert kernel_ways.ways_of(PAIRS_BEHIND).bf16 == "dot"
    with pytest.raises(KernelWaysError, match="no products of bf16 pairs"):
        kernel_ways.ways_of(NO_PAIRS)
    monkeypatch.setenv(kernel_ways.FORCED, "fast")
    with pytest.raises(
        KernelWaysError, match="GAINSHARE_BF16 is 'fast': set it to 'fma' or 'dot', or unset it"
    ):
        kernel_ways.ways_of(PAIRS_AHEAD)


@pytest.mark.usefixtures("folder")
def test_users_read_which_way_and_why() -> None:
    assert kernel_ways.text_of(PAIRS_BEHIND).splitlines() == [
        "products of bf16 by fma: 159 GFLOP/s in fp32, 86 in bf16 pairs",
        "linear maps in fp32 by torch: 120 GFLOP/s, torch's 142",
        "linear maps in bf16 by our kernels from 512 rows on: 130 GFLOP/s, torch's 83",
    ]
    assert "our kernels from 8 rows on" in kernel_ways.text_of(NO_PAIRS)
    assert "no bf16 pairs" in kernel_ways.text_of(NO_PAIRS)


@pytest.mark.usefixtures("folder")
def test_evidence_has_ways_and_whole_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    evidence = kernel_ways.as_evidence(replace(PAIRS_BEHIND, fma=159e9 + 0.25))
    assert (
        evidence["bf16"] == "fma" and evidence["fp32_linear"] == "torch" and evidence["bf16_linear"] == "own"
    )
    assert evidence["fma"] == 159_000_000_000 and evidence["dot"] == 86_000_000_000
    assert all(isinstance(value, str | int) for value in evidence.values())
    assert kernel_ways.as_evidence(None) == {}
    monkeypatch.setenv(kernel_ways.FORCED, "other")  # the build says so
    assert kernel_ways.as_evidence(PAIRS_BEHIND) == {}


def test_rates_are_kept_for_this_processor_and_this_torch(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kernel_ways.measured(folder) is None
    assert kernel_ways.keep(folder, PAIRS_AHEAD) == kernel_ways.measured(folder) == PAIRS_AHEAD
    monkeypatch.setattr(kernel_ways, "processor", lambda: ["model name: another one"])
    assert kernel_ways.measured(folder) is None
    monkeypatch.undo()
    monkeypatch.setattr(kernel_ways, "BESIDE_THE_CODE", folder.parent / "install")
    monkeypatch.setattr(kernel_ways, "_torch_version", lambda: "another")
    assert kernel_ways.measured(folder) is None


def test_what_was_measured_at_the_install_holds_for_each_home(folder: Path) -> None:
    installed = folder.parent / "install/native"
    installed.mkdir(parents=True)
    kernel_ways.keep(installed, PAIRS_AHEAD)
    assert kernel_ways.measured(folder) == PAIRS_AHEAD
    assert kernel_ways.file_of(folder) == next(installed.glob("rates-*.json"))
    kernel_ways.keep(folder, NO_PAIRS)
    assert kernel_ways.measured(folder) == NO_PAIRS


@pytest.mark.parametrize(
    "damage",
    ["", "{}", "[1]", '"text"', '{"fma": 1}', str(asdict(NO_PAIRS)).replace("'", '"').replace("3", '"3"')],
)
def test_a_damaged_file_counts_as_none_and_is_replaced(folder: Path, damage: str) -> None:
    kernel_ways.keep(folder, PAIRS_AHEAD)
    (file,) = folder.iterdir()
    file.write_text(damage)
    assert kernel_ways.measured(folder) is None
    assert kernel_ways.keep(folder, NO_PAIRS) == kernel_ways.measured(folder) == NO_PAIRS


@pytest.mark.parametrize("rate", [-1.0, float("nan"), float("inf"), "fast", None])
def test_what_is_no_rate_is_refused(rate: object) -> None:
    with pytest.raises(KernelWaysError, match="fma is not a rate"):
        replace(NO_PAIRS, fma=rate)


def test_of_processes_that_measure_at_the_same_time_the_first_one_counts(folder: Path) -> None:
    found: list[Rates] = []
    measured = [replace(NO_PAIRS, fma=1e9 * n) for n in range(1, 9)]
    threads = [
        threading.Thread(target=lambda r=r: found.append(kernel_ways.keep(folder, r))) for r in measured
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1
    assert kernel_ways.measured(folder) == found[0]
    assert [file.name for file in folder.iterdir()] == [kernel_ways._name()]


@pytest.mark.parametrize(("kernels", "expected"), [("shared", "shared"), (None, "home/native")])
def test_homes_have_their_own_folder_or_share_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernels: str | None, expected: str
) -> None:
    monkeypatch.setenv("GAINSHARE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GAINSHARE_KERNELS", raising=False)
    if kernels:
        monkeypatch.setenv("GAINSHARE_KERNELS", str(tmp_path / kernels))
    assert kernel_ways.kernels_folder() == tmp_path / expected
    assert kernel_ways.kernels_folder(tmp_path / "given") == tmp_path / "given/native"
