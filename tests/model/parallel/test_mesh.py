"""The mesh: who is where, who talks to whom, and which meshes a model refuses."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config import LatentConfig, ModelConfig, MoEConfig
from model.parallel.mesh.mesh import Axis, Mesh, MeshError, check, refusals, split_layers

MODEL = ModelConfig(
    name="m",
    vocab_size=64,
    d_model=16,
    n_layers=6,
    n_heads=8,
    n_kv_heads=4,
    d_head=4,
    d_ff=24,
    max_context=32,
    moe=MoEConfig(d_model=16, d_expert=8, n_experts=12, top_k=2, n_shared=1),
    first_moe_layer=1,
)
DEGREES = st.integers(1, 4)


@st.composite
def meshes(draw: st.DrawFn) -> Mesh:
    ep, tp, pp = draw(DEGREES), draw(DEGREES), draw(DEGREES)
    if tp > 1 and ep > 1 and draw(st.booleans()):
        dp = draw(st.integers(1, 6).filter(lambda dp: dp * tp % ep == 0))
        return Mesh(dp=dp, tp=tp, pp=pp, ep=ep, etp=1)
    return Mesh(dp=ep * draw(st.integers(1, 3)), tp=tp, pp=pp, ep=ep)


@given(meshes())
def test_ranks_and_coordinates_are_inverse_and_neighbours_share_tensor_groups(mesh: Mesh) -> None:
    seen = set()
    for rank in range(mesh.world_size):
        at = mesh.coordinates(rank)
        assert mesh.rank(pp=at.pp, dp=at.dp, tp=at.tp) == rank
        along = at.dp * mesh.tp + at.tp if mesh.is_folded else at.dp
        assert along == at.edp * mesh.ep + at.ep
        seen.add((at.pp, at.dp, at.tp))
        assert mesh.group("tp", rank) == tuple(range(rank - at.tp, rank - at.tp + mesh.tp))
    assert len(seen) == mesh.world_size


@given(meshes())
def test_groups_of_each_axis_partition_the_world_and_differ_along_it_only(mesh: Mesh) -> None:
    for axis in get_args(Axis):
        groups = mesh.groups(axis)
        assert sorted(rank for group in groups for rank in group) == list(range(mesh.world_size))
        for group in groups:
            assert len(group) == mesh.degree(axis)
            places = [dataclasses.asdict(mesh.coordinates(rank)) for rank in group]
            assert [place[axis] for place in places] == list(range(len(group)))
            along_data = ("pp", "edp" if axis == "ep" else "ep") if mesh.is_folded else ("pp", "tp")
            fixed = {"tp": ("pp", "dp"), "pp": ("dp", "tp"), "dp": ("pp", "tp")}.get(axis, along_data)
            assert all(len({place[other] for place in places}) == 1 for other in fixed)


def test_the_documented_order_holds_for_eight_ranks() -> None:
    mesh = Mesh(dp=2, tp=2, pp=2, ep=2)
    assert mesh.groups("tp") == ((0, 1), (2, 3), (4, 5), (6, 7))
    assert mesh.groups("dp") == ((0, 2), (1, 3), (4, 6), (5, 7))
    assert mesh.groups("ep") == mesh.groups("dp")
    assert mesh.groups("pp") == ((0, 4), (1, 5), (2, 6), (3, 7))
    assert mesh.groups("edp") == tuple((rank,) for rank in range(8))


def test_expert_groups_are_neighbours_along_the_data_axis() -> None:
    mesh = Mesh(dp=4, ep=2)
    assert mesh.groups("ep") == ((0, 1), (2, 3))
    assert mesh.groups("edp") == ((0, 2), (1, 3))


def test_expert_groups_of_a_folded_mesh_are_neighbours_along_data_and_tensor_axis() -> None:
    mesh = Mesh(dp=2, tp=2, pp=2, ep=4, etp=1)
    assert mesh.groups("ep") == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert mesh.groups("edp") == tuple((rank,) for rank in range(8))
    fewer = Mesh(dp=2, tp=4, ep=2, etp=1)  # copies are within a tensor parallel group too
    assert fewer.groups("ep") == ((0, 1), (2, 3), (4, 5), (6, 7))
    assert fewer.groups("edp") == ((0, 2, 4, 6), (1, 3, 5, 7))


def test_experts_that_are_split_over_all_of_tp_are_the_usual_mesh() -> None:
    assert Mesh(dp=2, tp=2, ep=2, etp=2) == Mesh(dp=2, tp=2, ep=2)
    assert Mesh(dp=2, ep=2, etp=1) == Mesh(dp=2, ep=2)


@given(meshes())
def test_a_mesh_is_read_back_from_its_text(mesh: Mesh) -> None:
    assert Mesh.parse(str(mesh)) == mesh


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dp=2,tq=2", "unknown axis 'tq'"),
        ("dp=two", "whole number"),
        ("dp=2,dp=4", "twice"),
        ("dp=0", "at least 1"),
        ("dp=2,ep=4", r"must divide dp \(2\)"),
        ("dp=2,tp=2,ep=4", "with etp=1 over tensor-parallel ones too"),
        ("dp=2,tp=2,ep=8,etp=1", r"ep \(8\) must divide dp \* tp \(4\)"),
        ("dp=2,tp=2,etp=1", "give ep of at least 2"),
        ("tp=4,ep=2,etp=2", r"etp \(2\) must be 1, for whole experts, or tp \(4\)"),
        ("tp=2,ep=2,etp=0", "etp must be at least 1"),
    ],
)
def test_unreadable_or_impossible_meshes_are_refused(text: str, message: str) -> None:
    with pytest.raises(MeshError, match=message):
        Mesh.parse(text)


def test_a_sequence_is_split_over_tensor_parallel_ranks_only() -> None:
    with pytest.raises(MeshError, match=r"dp=2,tp=1,pp=1,ep=1 has one: use tp of at least 2"):
        check(MODEL, Mesh(dp=2), splits_sequence=True)
    check(MODEL, Mesh(dp=2))
    check(MODEL, Mesh(tp=2), splits_sequence=True)


def test_ranks_outside_are_refused() -> None:
    with pytest.raises(MeshError, match="outside"):
        Mesh(dp=2).coordinates(2)
    with pytest.raises(MeshError, match="outside"):
        Mesh(dp=2).rank(pp=0, dp=2, tp=0)
    with pytest.raises(MeshError, match="unknown axis"):
        Mesh().group("xp", 0)  # type: ignore[arg-type]


@given(st.integers(1, 40), st.integers(1, 40))
def test_layers_are_split_evenly_in_order_and_never_to_nobody(n_layers: int, n_stages: int) -> None:
    if n_stages > n_layers:
        with pytest.raises(MeshError, match="at least one"):
            split_layers(n_layers, n_stages)
        return
    stages = split_layers(n_layers, n_stages)
    assert [layer for stage in stages for layer in stage] == list(range(n_layers))
    sizes = [len(stage) for stage in stages]
    assert max(sizes) - min(sizes) <= 1
    assert sizes[-1] == min(sizes)  # the head's stage is never the longer one


def test_layers_left_over_go_to_the_middle_first_and_to_the_head_s_stage_never() -> None:
    sizes = [[len(stage) for stage in split_layers(n_layers, 4)] for n_layers in (8, 9, 10, 11)]
    assert sizes == [[2, 2, 2, 2], [2, 3, 2, 2], [2, 3, 3, 2], [3, 3, 3, 2]]


def test_a_fitting_mesh_passes() -> None:
    check(MODEL, Mesh(dp=4, tp=4, pp=3, ep=4), 48)
    assert list(refusals(MODEL, Mesh(dp=12, ep=12))) == []
    odd = dataclasses.replace(MODEL, moe=dataclasses.replace(MODEL.moe, d_expert=9, shared_width=8))
    check(odd, Mesh(dp=3, tp=2, ep=6, etp=1))  # no expert's width is split


@pytest.mark.parametrize(
    ("change", "mesh", "message"),
    [
        ({}, Mesh(dp=3), r"needs 3 ranks .* there are 2"),
        ({"n_heads": 6, "n_kv_heads": 6}, Mesh(tp=2 * 2), r"n_heads \(6\)"),
        ({}, Mesh(tp=8), r"n_kv_heads \(4\) is not a multiple of tp \(8\)"),
        ({"d_ff": 25}, Mesh(tp=2), r"d_ff \(25\)"),
        ({"vocab_size": 63}, Mesh(tp=2), r"vocab_size \(63\)"),
        ({"moe": dataclasses.replace(MODEL.moe, d_expert=9)}, Mesh(tp=2), r"moe.d_expert \(9\)"),
        ({"moe": dataclasses.replace(MODEL.moe, shared_width=9)}, Mesh(tp=2), "shared experts' width"),
        ({"qk_norm": "all"}, Mesh(tp=2), "qk_norm 'all'"),
        ({"output_bias": True}, Mesh(tp=2), "output_bias"),
        ({"ffn_bias": True}, Mesh(tp=2), "ffn_bias"),
        ({"moe": None}, Mesh(dp=2, ep=2), "no experts to spread"),
        ({"first_moe_layer": 6}, Mesh(dp=2, ep=2), "no experts to spread"),
        ({}, Mesh(dp=8, ep=8), r"n_experts \(12\) is not a multiple of ep \(8\)"),
        ({}, Mesh(dp=4, tp=2, ep=8, etp=1), r"n_experts \(12\) is not a multiple of ep \(8\)"),
        ({"moe": None}, Mesh(tp=2, ep=2, etp=1), "no experts to spread"),
        ({}, Mesh(pp=7), "6 layers cannot be split into 7"),
        ({"attention_owners": (0, 0, 2, 2, 2, 5)}, Mesh(pp=2), "attention_owners ties layers 2 and 3"),
        ({"ffn_owners": (0, 1, 1, 1, 4, 5)}, Mesh(pp=2), "ffn_owners ties layers 1 and 3"),
        ({"n_ahead": 1}, Mesh(), "multi-token prediction"),
    ],
)
def test_impossible_meshes_are_refused_with_the_reason(change: dict, mesh: Mesh, message: str) -> None:
    config = dataclasses.replace(MODEL, **change)
    world_size = 2 if "there are 2" in message else mesh.world_size
    with pytest.raises(MeshError, match=message):
        check(config, mesh, world_size)


def test_shared_layers_within_a_stage_and_latent_heads_are_no_reason() -> None:
    shared = dataclasses.replace(MODEL, attention_owners=(0, 0, 2, 3, 3, 5))
    assert list(refusals(shared, Mesh(pp=2))) == []
    latent = LatentConfig(kv_rank=8, d_nope=4, d_rope=4, d_value=4)
    heads = dataclasses.replace(MODEL, latent=latent)
    assert list(refusals(heads, Mesh(tp=8))) == []  # its key/value heads are not split


def test_interleaved_chunks_count_as_stages() -> None:
    check(MODEL, Mesh(pp=3), n_chunks=2)
    with pytest.raises(MeshError, match="6 layers cannot be split into 8"):
        check(MODEL, Mesh(pp=2), n_chunks=4)


def test_a_mesh_can_be_read_without_torch() -> None:
    code = "import sys, model.parallel.mesh.mesh; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
