"""The planner: shapes, clusters, the search for a layout and its command."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import ConfigError
from model.parallel.mesh.mesh import Mesh, check
from model.plan.__main__ import main
from model.plan.cluster import ClusterError, cluster_from, read_cluster, shipped
from model.plan.layout import Layout
from model.plan.search import meshes, refusal, search
from model.plan.shapes import model_of
from tests.model.plan.planned import CLUSTER, MODEL, WORKLOAD

pytestmark = pytest.mark.slow


@settings(max_examples=25, deadline=None)
@given(st.floats(1e9, 3e12))
def test_shapes_have_about_the_parameters_that_were_asked_for(parameters: float) -> None:
    config = model_of(parameters)
    assert config.total_parameters == pytest.approx(parameters, rel=0.03)
    assert config.n_layers % 8 == 0 and config.n_heads % config.n_kv_heads == 0


def test_too_few_parameters_have_no_shape() -> None:
    with pytest.raises(ConfigError, match="at least 1e9"):
        model_of(1e8)
    for value in ("inf", "nan", "-inf"):
        with pytest.raises(ConfigError, match="at least 1e9"):
            model_of(float(value))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"memory_gb": 80}, "unknown key 'memory_gb', did you mean 'memory_gib'"),
        ({"flops": "fast"}, "flops must be a number"),
        ({"flops": True}, "flops must be a number"),
        ({"name": 3}, "name must be a text"),
        ({"devices_per_node": 4.5}, "whole number"),
        ({"efficiency": 1.5}, "share of peak"),
        ({"inter_gb_s": 0}, "inter_gb_s must be above 0"),
        ({"intra_latency_us": -1}, "must not be negative"),
        ({"reserved_gib": 2.0}, "no memory for tensors"),
    ],
)
def test_wrong_clusters_are_refused_by_key(change: dict, message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        cluster_from({**dataclasses.asdict(CLUSTER), **change}, "file.toml")


def test_missing_keys_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"missing .* 'source'"):
        cluster_from({"name": "c"}, "file.toml")
    with pytest.raises(ClusterError, match="h100-80gb"):
        read_cluster("no-such-cluster")
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    with pytest.raises(ClusterError, match="cannot be read"):
        read_cluster(str(broken))


def test_shipped_clusters_are_readable_and_say_where_their_figures_are_from() -> None:
    assert {"h100-80gb", "h200-141gb"} <= set(shipped())
    assert all("assumed" in read_cluster(name).source for name in shipped())


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (Layout(Mesh(dp=3), 1, "none"), "cannot be cut"),
        (Layout(Mesh(pp=8), 16, "none"), "4 micro-batches cannot fill 8"),
        (Layout(Mesh(pp=2), 1, "none", zero=2), "not with tp or pp"),
        (Layout(Mesh(dp=2, tp=2), 1, "none", zero=2), "not with tp or pp"),
        (Layout(Mesh(tp=2), 1, "none", zero=3), "not with tp or pp"),
        (Layout(Mesh(dp=2), 1, "full", zero=2), None),
        (Layout(Mesh(dp=2, ep=2), 1, "none", zero=3), "ZeRO 3"),
        (Layout(Mesh(dp=2, ep=2), 1, "none", zero=2), None),
        (Layout(Mesh(dp=2), 1, "none", zero=3), None),
        (Layout(Mesh(), 1, "none", n_chunks=2), "need a pipeline"),
        (Layout(Mesh(pp=8), 1, "none", n_chunks=4), "8 layers cannot be split into 32"),
        (Layout(Mesh(pp=4), 8, "none", n_chunks=2), None),
        (Layout(Mesh(dp=2, tp=2, pp=2, ep=2), 1, "full"), None),
        (Layout(Mesh(dp=2, tp=2, pp=2, ep=2), 1, "full", splits_sequence=True), None),
        (Layout(Mesh(dp=2), 1, "full", splits_sequence=True), "use tp of at least 2"),
    ],
)
def test_layouts_that_cannot_run_are_refused(layout: Layout, message: str | None) -> None:
    reason = refusal(WORKLOAD, layout)
    assert (reason is None) if message is None else (reason is not None and message in reason)


def test_search_returns_what_fits_fastest_first_and_counts_the_rest() -> None:
    few_heads = dataclasses.replace(WORKLOAD, config=dataclasses.replace(MODEL, n_kv_heads=2))
    plan = search(few_heads, CLUSTER, 8)
    assert plan.estimates
    steps = [found.times.step for found in plan.estimates]
    assert steps == sorted(steps)
    assert all(found.memory.total <= CLUSTER.usable_bytes for found in plan.estimates)
    assert all(found.layout.mesh.world_size == 8 for found in plan.estimates)
    assert any("heads" in entry.example for entry in plan.refused.values())
    assert any("equal interleaved stages" in entry.example for entry in plan.refused.values())
    tiny = search(WORKLOAD, dataclasses.replace(CLUSTER, memory_gib=0.001), 8)
    assert not tiny.estimates
    reasons = [entry for entry in tiny.refused.values() if "GiB" in entry.reason]
    assert len(reasons) == 1 and reasons[0].count > 50


def test_search_offers_zero_two_and_three_only_as_a_trainer_runs_them() -> None:
    plan = search(WORKLOAD, CLUSTER, 8, (2, 3))
    assert {found.layout.zero for found in plan.estimates} == {2, 3}
    for found in plan.estimates:
        mesh = found.layout.mesh
        assert (mesh.tp, mesh.pp) == (1, 1)
        assert found.layout.zero == 2 or mesh.ep == 1


def test_search_tries_whole_experts_over_tensor_parallel_ranks_and_offers_what_can_be_trained() -> None:
    found = [mesh for mesh in meshes(MODEL, 8, devices_per_node=4) if mesh.is_folded]
    assert len(set(found)) == len(found)
    assert Mesh(dp=2, tp=4, ep=8, etp=1) in found and Mesh(tp=4, pp=2, ep=2, etp=1) in found
    assert all(mesh.tp > 1 and mesh.ep > 1 and mesh.world_size == 8 for mesh in found)
    narrow = dataclasses.replace(MODEL, moe=dataclasses.replace(MODEL.moe, d_expert=31, shared_width=32))
    plan = search(dataclasses.replace(WORKLOAD, config=narrow), CLUSTER, 8)
    for estimate in plan.estimates:
        check(narrow, estimate.layout.mesh, 8, n_chunks=estimate.layout.n_chunks)
    assert any(estimate.layout.mesh.is_folded for estimate in plan.estimates)
    assert all(estimate.layout.mesh.is_folded for estimate in plan.estimates if estimate.layout.mesh.tp > 1)
    assert not any(mesh.is_folded for mesh in meshes(dataclasses.replace(MODEL, moe=None), 8, 4))


def test_search_tries_each_layout_with_the_sequence_split_over_tensor_parallel_ranks_and_whole() -> None:
    found = search(WORKLOAD, CLUSTER, 8).estimates
    split = {estimate.layout for estimate in found if estimate.layout.splits_sequence}
    whole = {estimate.layout for estimate in found if not estimate.layout.splits_sequence}
    assert all(layout.mesh.tp > 1 for layout in split)
    over_tp = {layout for layout in whole if layout.mesh.tp > 1}
    assert over_tp and {dataclasses.replace(layout, splits_sequence=True) for layout in over_tp} <= split


def test_search_prefers_no_recomputation_where_memory_allows() -> None:
    assert search(WORKLOAD, CLUSTER, 4).estimates[0].layout.checkpointing == "none"


@pytest.mark.long
def test_a_trillion_parameters_fit_on_256_devices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--params", "1e12", "--devices", "256", "--json", "--top", "3"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["parameters"] == pytest.approx(1e12, rel=0.03)
    best = document["rows"][0]
    assert best["pp"] * best["tp"] * best["dp"] == 256
    assert best["memory_bytes"] <= (79.6 - 4) * 2**30
    parts = ("weights", "gradients", "optimiser", "activations", "working")
    assert best["memory_bytes"] == pytest.approx(sum(best[f"{part}_bytes"] for part in parts))
    # all weights, gradients and states of the experts alone are 62 GB on each of 256 devices
    assert best["memory_bytes"] > 62e9
    assert document["refused"]


def test_the_table_names_the_source_and_the_refusals(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "shape.json"
    file.write_text(json.dumps(MODEL.to_dict()))
    assert main(["--config", str(file), "--devices", "4", "--tokens", "128", "--batch", "64"]) == 0
    out = capsys.readouterr().out
    assert "computed, not measured" in out and "efficiencies assumed" in out
    assert "Refused:" in out and "MFU" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config", "nowhere.json", "--devices", "4"],
        ["--params", "1e6", "--devices", "4"],
        ["--params", "inf", "--devices", "8"],
        ["--params", "nan", "--devices", "8"],
        ["--params", "1e9", "--devices", "0"],
        ["--params", "1e9", "--devices", "4", "--cluster", "nowhere"],
        ["--config", "tiny", "--devices", "4", "--tokens", "4096"],
    ],
)
def test_unusable_input_ends_with_code_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_name_that_is_no_model_is_told_what_the_presets_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text, message in (
        (None, "neither a preset (tiny, smollm2) nor a readable file"),
        ("{", "is not JSON"),
        ("[1]", "holds no model configuration"),
    ):
        file = tmp_path / "nope"
        if text is not None:
            file.write_text(text)
        assert main(["--config", str(file), "--devices", "4"]) == 2
        assert message in capsys.readouterr().err


def test_planning_needs_no_torch() -> None:
    code = "import sys, model.plan.__main__ as m; m.main(['--config', 'tiny', '--devices', '2', '--tokens', '64', '--json']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
