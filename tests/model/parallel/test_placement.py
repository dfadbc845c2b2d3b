"""Device models, the assignment of parts to devices, and experts that are on two of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.config import ConfigError, LatentConfig, ModelConfig, MoEConfig
from model.layers.moe.layer import Experts, MoELayer
from model.parallel.mesh.mesh import Mesh
from model.parallel.placement.device_model import DeviceModel, DeviceModelError, read_device_model, to_json
from model.parallel.placement.experts import OffloadedExperts
from model.parallel.placement.measure_device import measure_device
from model.parallel.placement.parts import (
    PlacementError,
    best_single,
    gains,
    main,
    place,
    split_experts,
)
from model.parallel.placement.work import work_of
from model.plan.activations import stage_activations
from model.plan.layout import PRECISIONS, Layout, Workload
from tests.needs_torch import needs_cuda

pytestmark = pytest.mark.slow

MODEL = ModelConfig(
    name="m",
    vocab_size=256,
    d_model=64,
    n_layers=4,
    n_heads=4,
    n_kv_heads=4,
    d_head=16,
    d_ff=128,
    max_context=512,
    moe=MoEConfig(d_model=64, d_expert=32, n_experts=8, top_k=2, n_shared=1),
)
# Made-up devices with round figures: the arithmetic is tested, not a machine.
HOST = DeviceModel(
    name="host",
    kind="cpu",
    measured_at="2026-01-01T00:00:00+00:00",
    dtype="float32",
    memory_bytes=10**9,
    memory_gb_s=20.0,
    link_gb_s=1e6,
    link_latency_us=0.0,
    rates={
        "data": ((1.0, 1e5),),
        "attention": ((64.0, 1e10),),
        "dense": ((1.0, 1e10), (100.0, 1e11)),
        "experts": ((1.0, 1e10),),
    },
)
ACCELERATOR = DeviceModel(
    name="accelerator",
    kind="cuda",
    measured_at="2026-01-01T00:00:00+00:00",
    dtype="float32",
    memory_bytes=10**9,
    memory_gb_s=1000.0,
    link_gb_s=10.0,
    link_latency_us=10.0,
    rates={"attention": ((64.0, 1e12),), "dense": ((1.0, 1e12),), "experts": ((1.0, 5e11),)},
)
ACCELERATOR_WITHOUT_EXPERTS = dataclasses.replace(
    ACCELERATOR, rates={"attention": ((64.0, 1e12),), "dense": ((1.0, 1e12),)}
)


def test_rates_are_interpolated_on_logarithmic_axes_and_stay_beyond() -> None:
    assert HOST.rate("dense", 10) == pytest.approx(10**10.5)
    assert HOST.rate("dense", 0.5) == 1e10
    assert HOST.rate("dense", 1e6) == 1e11
    assert HOST.seconds("dense", 2e10, 1) == pytest.approx(2.0)
    assert HOST.seconds("dense", 0, 1) == 0


@given(st.floats(1, 100))
def test_rates_lie_between_the_samples(size: float) -> None:
    assert 1e10 * 0.999 <= HOST.rate("dense", size) <= 1e11 * 1.001


def test_copies_cost_latency_and_bandwidth_but_none_on_the_host() -> None:
    assert ACCELERATOR.copy_seconds(1e10) == pytest.approx(1.00001)
    assert HOST.copy_seconds(1e10) == 0


def test_a_model_is_read_back_and_broken_ones_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "device.json"
    file.write_text(to_json(HOST))
    assert read_device_model(file) == HOST
    document = json.loads(to_json(HOST))
    for change, message in (
        ({"format": "other/1"}, "not of format"),
        ({"memory_bytes": 0}, "memory_bytes must be above 0"),
        ({"rates": {"dense": []}}, "ascending sizes"),
        ({"rates": {"dense": [[2, 1], [1, 1]]}}, "ascending sizes"),
        ({"rates": {"dance": [[1, 1]]}}, "unknown operation 'dance'"),
        ({"surprise": 1}, "surprise"),
    ):
        file.write_text(json.dumps({**document, **change}))
        with pytest.raises(DeviceModelError, match=message):
            read_device_model(file)
    with pytest.raises(DeviceModelError, match="placement measure"):
        read_device_model(tmp_path / "missing.json")
    with pytest.raises(DeviceModelError, match="not measured on data"):
        ACCELERATOR.rate("data", 1)


def test_work_of_a_step_is_that_of_the_configuration() -> None:
    work = work_of(MODEL, 128, dtype="float32", is_training=False)
    assert work["experts"].flops == 128 * 2 * 4 * 2 * 3 * 64 * 32
    assert work["experts"].weight_bytes == 4 * 4 * 8 * 3 * 64 * 32
    assert work["experts"].size == 128 * 2 / 8
    multiplied = sum(
        work[part].flops + work[part].product_flops
        for part in ("attention", "dense", "experts")  # type: ignore[index]
    )
    scores = 4 * 128 * 2 * 64 * 4 * 2 * 16
    assert work["attention"].flops == scores
    assert work["attention"].product_flops == 2 * 128 * 4 * 4 * 64 * 64
    assert multiplied == 2 * 128 * MODEL.active_parameters + scores
    training = work_of(MODEL, 128, dtype="float32")
    assert training["dense"].flops == 3 * work["dense"].flops
    assert training["attention"].product_flops == 3 * work["attention"].product_flops


def test_attention_multiplies_what_its_windows_and_latents_let_it() -> None:
    def scores(**change: object) -> float:
        return work_of(dataclasses.replace(MODEL, **change), 128, dtype="float32")["attention"].flops

    assert scores(sliding_window=16, full_attention_layers=(0,)) == scores() * (1 + 3 * 16 / 64) / 4
    latent = LatentConfig(kv_rank=24, d_nope=16, d_rope=8, d_value=12)
    assert scores(latent=latent) == scores() * (16 + 8 + 12) / (2 * 16)


def test_projections_of_attention_cost_what_dense_products_do() -> None:
    work = work_of(MODEL, 128, dtype="float32")["attention"]
    assert work.seconds("attention", HOST) == pytest.approx(work.flops / 1e10 + work.product_flops / 1e11)
    faster = dataclasses.replace(HOST, rates={**HOST.rates, "attention": ((64.0, 1e15),)})
    assert work.seconds("attention", faster) == pytest.approx(work.product_flops / 1e11, rel=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_holds_gradients_states_and_activations_beside_the_weights(
    dtype: str,
) -> None:
    work = work_of(MODEL, 128, dtype=dtype)
    of_weights = sum(part.weight_bytes + part.state_bytes for part in work.values())
    assert of_weights == pytest.approx(16 * MODEL.total_parameters)  # with a master copy where not fp32
    workload = Workload(MODEL, 128, 1, PRECISIONS["fp32" if dtype == "float32" else "bf16"])
    ids = 128 * 8
    kept = sum(part.kept_bytes for part in work.values())
    assert kept == pytest.approx(stage_activations(workload, Layout(Mesh(), 1, "none"), 0) - ids)
    assert all(work[part].kept_bytes > 0 for part in ("attention", "dense", "experts"))  # type: ignore[index]


def test_serving_holds_keys_and_values_beside_attention() -> None:
    work = work_of(MODEL, 128, dtype="bfloat16", is_training=False)
    assert work["attention"].kept_bytes == 128 * 4 * 2 * 4 * 16 * 2
    assert {part: entry.state_bytes for part, entry in work.items()} == dict.fromkeys(work, 0)
    assert work["dense"].kept_bytes == work["experts"].kept_bytes == 0
    latent = LatentConfig(kv_rank=24, d_nope=16, d_rope=8, d_value=16)
    compressed = dataclasses.replace(MODEL, latent=latent)
    kept = work_of(compressed, 128, dtype="float32", is_training=False)["attention"].kept_bytes
    assert kept == 128 * 4 * (24 + 8) * 4
    full = work_of(MODEL, 1, dtype="float32", is_training=False, cache_bytes=1e6)
    assert full["attention"].kept_bytes == 1e6


def test_what_a_device_must_hold_decides_what_fits_there() -> None:
    """Weights alone would fit; with gradients, states and activations, or with a cache, they do not."""
    weights = 4 * MODEL.total_parameters
    held = sum(work.held_bytes for work in work_of(MODEL, 128, dtype="float32").values())
    assert held > 4 * weights
    with pytest.raises(
        PlacementError, match="does not fit on host in any placement: it needs, in GB: attention"
    ):
        place(MODEL, [dataclasses.replace(HOST, memory_bytes=int(0.9 * held))], 128)
    assert place(MODEL, [dataclasses.replace(HOST, memory_bytes=int(held) + 1)], 128)
    serving = dataclasses.replace(HOST, memory_bytes=2 * weights)
    assert place(MODEL, [serving], 16, is_training=False)
    with pytest.raises(PlacementError, match="in any placement"):
        place(MODEL, [serving], 16, is_training=False, cache_bytes=1.5 * weights)


def test_cold_experts_must_fit_the_host() -> None:
    work = work_of(MODEL, 512, dtype="float32")["experts"]
    half = work.held_bytes / 2
    even = [1 / 8] * 8
    split = split_experts(work, 8, even, ACCELERATOR, HOST, half, half)
    assert split is not None and split.n_hot == 4
    assert split_experts(work, 8, even, ACCELERATOR, HOST, half, 0.9 * half) is None


def test_one_device_has_one_placement_and_no_gain() -> None:
    placed = place(MODEL, [HOST], 128)
    assert set(placed.devices.values()) == {"host"}
    assert placed.copies_s == 0
    assert placed.step_s == pytest.approx(sum(placed.seconds.values()))  # the data path shares its device
    assert gains(placed, best_single(MODEL, [HOST], 128)) == dict.fromkeys(
        ("data", "attention", "dense", "experts", "step"), 1.0
    )


def test_products_go_to_the_accelerator_and_data_stays_on_the_host() -> None:
    placed = place(MODEL, [HOST, ACCELERATOR], 512)
    assert placed.devices["data"] == "host"
    assert placed.devices["attention"] == placed.devices["dense"] == "accelerator"
    single = best_single(MODEL, [HOST, ACCELERATOR], 512)
    assert placed.step_s <= single.step_s < best_single(MODEL, [HOST], 512).step_s


@pytest.mark.parametrize("is_training", [True, False])
def test_the_stream_is_copied_between_neighbours_that_lie_apart(is_training: bool) -> None:
    """Latency and bytes over the link, once for each way within a layer, and back again for gradients."""
    directions = 2 if is_training else 1
    stream = 10e-6 + 128 * 64 * 4 / 10e9
    host = dataclasses.replace(HOST, rates={part: HOST.rates[part] for part in ("data", "experts")})
    apart = place(MODEL, [host, ACCELERATOR_WITHOUT_EXPERTS], 128, is_training=is_training)
    assert list(apart.devices.values()) == ["host", "accelerator", "accelerator", "host"]
    # from attention to the experts and back, and from the experts to the shared ones and back
    assert apart.copies_s == pytest.approx(4 * directions * (2 + 2) * stream)
    without = dataclasses.replace(MODEL, moe=None)
    together = place(without, [host, ACCELERATOR_WITHOUT_EXPERTS], 128, is_training=is_training)
    assert together.copies_s == 0


def test_rows_of_cold_experts_are_copied_to_the_host_and_back() -> None:
    held = {part: work.held_bytes for part, work in work_of(MODEL, 512, dtype="float32").items()}
    small = dataclasses.replace(
        ACCELERATOR, memory_bytes=int(held["attention"] + held["dense"] + 0.7 * held["experts"])
    )
    host = dataclasses.replace(HOST, rates={part: HOST.rates[part] for part in ("data", "experts")})
    for load, cold_rows in (
        ([0.4, 0.2, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05], 0.2 * 2),
        ([1 / 8] * 8, 3 / 8 * 2),
    ):
        placed = place(MODEL, [host, small], 512, load=load)
        assert placed.experts is not None
        assert placed.experts.hot_share == pytest.approx(1 - cold_rows / 2)
        rows = 512 * cold_rows * 64 * 4
        assert placed.copies_s == pytest.approx(2 * 4 * 2 * (10e-6 + rows / 10e9))


def test_a_gain_is_the_single_device_s_time_over_the_placed_one_s() -> None:
    host = dataclasses.replace(HOST, rates={**HOST.rates, "data": ((1.0, 1e9),)})
    placed, single = place(MODEL, [host, ACCELERATOR], 512), best_single(MODEL, [host], 512)
    found = gains(placed, single)
    assert found["step"] == single.step_s / placed.step_s > 1
    assert found["attention"] == single.seconds["attention"] / placed.seconds["attention"] > 1
    assert found["data"] == 1


def test_a_slow_link_keeps_everything_together() -> None:
    slow = dataclasses.replace(ACCELERATOR, link_latency_us=1e6)
    placed = place(MODEL, [HOST, slow], 512)
    assert placed.copies_s == 0


def test_the_data_path_runs_ahead_where_it_has_a_device_of_its_own() -> None:
    placed = place(MODEL, [HOST, ACCELERATOR], 512)
    compute = sum(placed.seconds[part] for part in ("attention", "dense", "experts")) + placed.copies_s  # type: ignore[index]
    assert placed.step_s == pytest.approx(max(placed.seconds["data"], compute))


def test_what_does_not_fit_the_accelerator_is_computed_on_the_host() -> None:
    held = {part: work.held_bytes for part, work in work_of(MODEL, 512, dtype="float32").items()}
    others = held["attention"] + held["dense"]
    small = dataclasses.replace(ACCELERATOR, memory_bytes=int(others + held["experts"] / 2))
    load = [0.4, 0.2, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05]
    placed = place(MODEL, [HOST, small], 512, load=load)
    assert placed.experts is not None
    assert 0 < placed.experts.n_hot <= 4
    assert placed.experts.hot_share == pytest.approx(sum(load[: placed.experts.n_hot]))
    assert placed.experts.cold_s > 0
    even = place(MODEL, [HOST, small], 512)
    assert placed.step_s < even.step_s  # a skewed load leaves less to the slow side


def test_all_experts_are_hot_where_they_fit_and_the_host_is_slow() -> None:
    work = work_of(MODEL, 512, dtype="float32")["experts"]
    split = split_experts(work, 8, [1 / 8] * 8, ACCELERATOR, HOST, 1e9)
    assert split is not None and split.n_hot == 8 and split.cold_s == 0
    none = split_experts(work, 8, [1 / 8] * 8, ACCELERATOR, HOST, 0)
    assert none is not None and none.n_hot == 0


def test_a_side_takes_as_long_as_its_products_or_as_reading_its_experts() -> None:
    skewed = [0.5, 0.2, 0.1, 0.1, 0.05, 0.05, 0.0, 0.0]
    many = work_of(MODEL, 512, dtype="float32")["experts"]
    split = split_experts(many, 8, skewed, ACCELERATOR, HOST, many.held_bytes * 0.6)
    assert split is not None and split.n_hot == 2
    assert split.hot_share == pytest.approx(0.7)
    assert (split.hot_s, split.cold_s) == pytest.approx((many.flops * 0.7 / 5e11, many.flops * 0.3 / 1e10))
    one = work_of(MODEL, 1, dtype="float32")["experts"]
    split = split_experts(one, 8, [1 / 8] * 8, ACCELERATOR, HOST, one.held_bytes / 4)
    assert split is not None and split.n_hot == 2
    assert split.hot_s == pytest.approx(max(one.flops / 4 / 5e11, one.weight_bytes / 4 / 1e12))
    assert split.cold_s == pytest.approx(one.weight_bytes * 6 / 8 / 20e9)  # longer than the products take


def test_equal_sides_share_the_experts() -> None:
    work = work_of(MODEL, 4096, dtype="float32")["experts"]
    twin = dataclasses.replace(HOST, name="twin", kind="cuda")
    split = split_experts(work, 8, [1 / 8] * 8, twin, HOST, 1e9)
    assert split is not None and split.n_hot == 4


def test_what_fits_nowhere_and_mixed_measurements_are_refused() -> None:
    with pytest.raises(PlacementError, match="in any placement"):
        place(MODEL, [dataclasses.replace(HOST, memory_bytes=1000)], 128)
    with pytest.raises(PlacementError, match="fits on none"):
        best_single(MODEL, [dataclasses.replace(HOST, memory_bytes=1000)], 128)
    with pytest.raises(PlacementError, match="different dtypes"):
        place(MODEL, [HOST, dataclasses.replace(ACCELERATOR, dtype="bfloat16")], 128)
    with pytest.raises(PlacementError, match="the same name"):
        place(MODEL, [HOST, HOST], 128)
    with pytest.raises(PlacementError, match="no device model"):
        place(MODEL, [], 128)
    with pytest.raises(PlacementError, match="load needs 8"):
        place(MODEL, [HOST], 128, load=[1.0])
    for tokens in (0, -5):
        with pytest.raises(PlacementError, match="at least 1 token"):
            place(MODEL, [HOST], tokens)
        with pytest.raises(PlacementError, match="at least 1 token"):
            best_single(MODEL, [HOST], tokens)
    with pytest.raises(PlacementError, match="none of accelerator was measured on data: give the host's"):
        place(MODEL, [ACCELERATOR], 128)
    scores_only = {"attention": HOST.rates["attention"], "data": HOST.rates["data"]}
    with pytest.raises(PlacementError, match="was measured on attention and dense"):
        best_single(MODEL, [dataclasses.replace(HOST, rates=scores_only)], 128)  # type: ignore[arg-type]


def test_this_machine_is_measured_and_a_model_placed_on_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cpu.json"
    assert main(["measure", "--device", "cpu", "--seconds", "0.01", "--out", str(file)]) == 0
    model = read_device_model(file)
    assert model.kind == "cpu" and set(model.rates) == {"data", "attention", "dense", "experts"}
    assert 1e8 < model.rate("dense", 1024) < 1e14
    assert main(["simulate", str(file), "--config", "tiny", "--tokens", "64", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["simulated"] is True
    assert document["inputs"][0]["name"] == model.name
    assert document["gains"]["step"] == 1.0
    assert main(["simulate", str(file), "--config", "tiny", "--tokens", "64"]) == 0
    assert "simulated from measured device models" in capsys.readouterr().out


def test_devices_that_are_not_there_are_named() -> None:
    with pytest.raises(DeviceModelError, match="no device 'abacus'"):
        measure_device("abacus", "float32", seconds=0.01)
    absent = "xpu" if not torch.xpu.is_available() else "mps"
    with pytest.raises(DeviceModelError, match=f"has no {absent}"):
        measure_device(absent, "float32", seconds=0.01)


def test_unusable_input_ends_with_code_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host, accelerator = tmp_path / "host.json", tmp_path / "accelerator.json"
    host.write_text(to_json(HOST))
    accelerator.write_text(to_json(ACCELERATOR))
    for arguments, message in (
        ([str(tmp_path / "none.json"), "--config", "tiny"], "is not a device model"),
        ([str(host), "--config", "nope"], "'nope' is neither a preset (tiny, smollm2) nor a readable file"),
        ([str(host), "--config", "tiny", "--tokens", "0"], "at least 1 token, not 0"),
        ([str(host), "--config", "tiny", "--tokens", "-5"], "at least 1 token, not -5"),
        ([str(accelerator), "--config", "smollm2"], "was measured on data"),
    ):
        assert main(["simulate", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error


@pytest.mark.parametrize("hot", [[], [3], [5, 0, 2], [0, 1, 2, 3, 4, 5, 6, 7]], ids=len)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_experts_on_two_sides_equal_experts_on_one(hot: list[int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    assert MODEL.moe is not None
    layer = MoELayer(MODEL.moe).to(dtype)
    plain: Experts = layer.experts
    offloaded = OffloadedExperts(plain, hot, torch.device("cpu"))
    x = torch.randn(20, 64).to(dtype).requires_grad_()
    expected = layer(x)
    (expected_grad,) = torch.autograd.grad(expected.float().square().sum(), x)
    layer.experts = offloaded  # type: ignore[assignment]
    y = layer(x)
    (grad,) = torch.autograd.grad(y.float().square().sum(), x)
    tolerance = 5e-2 if dtype is torch.bfloat16 else 1e-5
    assert y.dtype == dtype
    assert torch.allclose(y.float(), expected.float(), rtol=tolerance, atol=tolerance)
    assert torch.allclose(grad.float(), expected_grad.float(), rtol=tolerance, atol=4 * tolerance)
    held = sum(parameter.numel() for parameter in offloaded.parameters())
    assert held == sum(parameter.numel() for parameter in plain.parameters())


@needs_cuda("experts were not split between host and device")
def test_hot_experts_on_an_accelerator_equal_plain_ones() -> None:
    torch.manual_seed(0)
    assert MODEL.moe is not None
    layer = MoELayer(MODEL.moe).cuda()
    x = torch.randn(20, 64, device="cuda")
    expected = layer(x)
    layer.experts = OffloadedExperts(layer.experts, [1, 6], torch.device("cuda"))  # type: ignore[assignment]
    y = layer(x)
    assert y.is_cuda and torch.allclose(y, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("hot", [[1, 1], [8], [-1]])
def test_wrong_hot_experts_are_refused(hot: list[int]) -> None:
    assert MODEL.moe is not None
    with pytest.raises(ConfigError, match="different ids below 8"):
        OffloadedExperts(Experts(MODEL.moe), hot, torch.device("cpu"))
