"""Honest patches: they apply, they compute what the base computes, and the judge refuses none of them as a cheat."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.pairs.builds.build import build_tree
from benchmarks.patch.patches import apply_patch, parse_patch
from benchmarks.patch.policy import check_patch, load_policy
from benchmarks.patch.trees import Tree, write_tree
from benchmarks.redteam.judging import Bench
from benchmarks.redteam.patch_file import HONEST, REFUSALS, RedTeamPatch, read_folder
from benchmarks.sandbox import best_level

pytestmark = pytest.mark.slow

PATCHES = read_folder(HONEST)
#: What an honest contributor brings, each by the word that its class begins with.
KINDS = ("faster", "smaller", "neutral", "refactoring", "a cache", "other numerics", "slower", "dead code")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("honest")
    for part in (folder, *folder.parents[:2]):
        part.chmod(0o755)  # as root a sandbox runs under an unassigned uid
    yield Bench(folder)


def test_there_are_patches_of_every_honest_kind() -> None:
    assert len(PATCHES) >= 14
    for kind in KINDS:
        assert any(patch.group.startswith(f"honest {kind}") for patch in PATCHES), kind
    assert any(b"model/csrc/" in patch.diff for patch in PATCHES)  # a real kernel is among them


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
def test_each_applies_and_keeps_to_the_policy(bench: Bench, patch: RedTeamPatch) -> None:
    parsed = parse_patch(patch.diff)
    check_patch(load_policy(), parsed)
    tree = apply_patch(bench.base(patch), parsed, bench.store)
    assert tree.hash != bench.base(patch).hash
    for entry in tree.entries:
        if entry.path.endswith(".py"):
            compile(bench.store.get(entry.blob), entry.path, "exec")


# Loads one tree after the other into one interpreter and says what each layer answers to seeded weights and inputs,
# and its gradients. Shapes: tokens, width, expert's width, experts, choices, shared experts.
ANSWERS = """
import json, sys
import torch
torch.set_num_threads(1)
SHAPES = [(64, 128, 128, 16, 2, 1), (1, 32, 48, 8, 2, 0), (300, 32, 16, 4, 2, 2), (13, 36, 20, 5, 5, 1)]

def answers(tree):
    for name in [name for name in sys.modules if name.partition(".")[0] == "model"]:
        del sys.modules[name]
    sys.path.insert(0, tree)
    from model.config import MoEConfig
    from model.layers.moe.layer import MoELayer
    from model.layers.norm import RMSNorm
    out = []
    for n_tokens, d_model, d_expert, n_experts, top_k, n_shared in SHAPES:
        rng = torch.Generator().manual_seed(n_tokens)
        layer = MoELayer(MoEConfig(d_model, d_expert, n_experts, top_k, n_shared))
        for name, parameter in sorted(layer.named_parameters()):
            with torch.no_grad():
                parameter.normal_(std=parameter.shape[-1] ** -0.5, generator=rng)
        x = torch.randn(n_tokens, d_model, generator=rng, requires_grad=True)
        with torch.inference_mode():
            out.append(layer(x.detach()))
        layer(x).square().sum().backward()
        out += [x.grad] + [p.grad for _, p in sorted(layer.named_parameters()) if p.grad is not None]
        out.append(RMSNorm(d_model, 1e-5)(x.detach()))
    sys.path.remove(tree)
    return out

base, *trees = sys.argv[1:]
expected = answers(base)
for tree in trees:
    found = answers(tree)
    assert len(found) == len(expected)
    off = [((a - b).norm() / b.norm()).item() for a, b in zip(found, expected)]
    print(json.dumps({"tree": tree, "worst": max(off)}))
"""


def test_each_computes_what_the_shipped_stack_computes_gradients_included(
    bench: Bench, tmp_path: Path
) -> None:
    folders: dict[str, str] = {}
    for name, tree in {"shipped": bench.shipped, **{p.name: bench.take_in(p) for p in PATCHES}}.items():
        write_tree(tree, bench.store, tmp_path / name)
        folders[str(tmp_path / name)] = name
    environment = {name: os.environ[name] for name in ("PATH", "GAINSHARE_HOME", "GAINSHARE_KERNELS")}
    done = subprocess.run(
        [sys.executable, "-c", ANSWERS, *folders], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    worst = {folders[row["tree"]]: row["worst"] for row in map(json.loads, done.stdout.splitlines())}
    assert set(worst) == {patch.name for patch in PATCHES}
    assert all(value < 2e-6 for value in worst.values()), worst
    assert worst["comments"] == worst["renamed"] == worst["grouping-moves"] == 0.0
    assert worst["native-kernel"] > 0.0  # another order of summing: the kernel was really used


def native_tree(bench: Bench) -> Tree:
    return bench.take_in(next(patch for patch in PATCHES if patch.name == "native-kernel"))


@pytest.mark.sandbox
@pytest.mark.measures
def test_the_native_kernel_is_built_by_the_judge_s_own_step(bench: Bench) -> None:
    tree = native_tree(bench)
    said: list[str] = []
    with bench.written(tree) as folders:
        library = build_tree("candidate", folders[tree.hash], level=best_level(), slot=1, on_log=said.append)
        assert library is not None
        assert ctypes.CDLL(str(library)).apply_experts
    assert said == []  # not a single warning


@pytest.mark.sandbox
@pytest.mark.measures
@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
def test_the_judge_refuses_no_honest_patch(bench: Bench, patch: RedTeamPatch) -> None:
    outcome = bench.judge(patch)
    assert outcome.verdict not in REFUSALS, outcome
    assert outcome.verdict in patch.expect, outcome
