"""The demo's diffs do what they say: each applies exactly to its base, and its numbers are as named.

When the fast experts change, `textbook_moe.diff` no longer applies and these tests say so: cut it again.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.patch.patches import apply_patch, parse_patch
from benchmarks.patch.policy import PolicyViolation, check_patch, load_policy
from benchmarks.patch.trees import BlobStore, Tree, shipped_tree, write_tree

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
BASE = EXAMPLES / "base" / "textbook_moe.diff"
PATCHES = sorted(path.stem for path in (EXAMPLES / "patches").glob("*.diff"))
SEAM = "model/layers/moe/experts.py"

Apply = Callable[..., Tensor]


class Trees:
    """The shipped tree, the demo's base and each patched tree, written out when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = BlobStore(folder / "blobs")
        self.base = apply_patch(shipped_tree(self.store), parse_patch(BASE.read_bytes()), self.store)

    def patched(self, name: str) -> Tree:
        patch = parse_patch((EXAMPLES / "patches" / f"{name}.diff").read_bytes())
        return apply_patch(self.base, patch, self.store)

    def written(self, name: str) -> Path:
        target = self.folder / name
        if not target.exists():
            tree = {"shipped": shipped_tree(self.store), "base": self.base}.get(name) or self.patched(name)
            write_tree(tree, self.store, target)
        return target

    def experts(self, name: str) -> Apply:
        """`apply_experts` of a tree, loaded into this process: not for trees that misbehave."""
        spec = importlib.util.spec_from_file_location(f"experts_of_{name}", self.written(name) / SEAM)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        apply: Apply = module.apply_experts
        return apply


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Trees:
    return Trees(tmp_path_factory.mktemp("trees"))


def demo_arguments() -> list[Tensor]:
    """One call at the demo's shapes: 256 tokens, 16 experts of 256, top-2."""
    rng = torch.Generator().manual_seed(9)
    x_TD = torch.randn(256, 256, generator=rng)
    scores_TE = torch.randn(256, 16, generator=rng).softmax(-1)
    weights_TK, experts_TK = scores_TE.topk(2)
    weights_TK = weights_TK / weights_TK.sum(-1, keepdim=True)
    matrices = [torch.randn(16, 256, 256, generator=rng) / 16 for _ in range(3)]
    return [x_TD, weights_TK, experts_TK, *matrices]


def difference(one: Tensor, other: Tensor) -> float:
    """Root mean square of the difference, relative to the first."""
    return float((one - other).square().mean().sqrt() / one.square().mean().sqrt())


def flops(apply: Apply) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        apply(*demo_arguments())
    return counter.get_total_flops()


def test_there_are_the_six_patches_of_the_demo() -> None:
    expected = [
        "clock_cheat",
        "comment_only",
        "faster_but_wrong",
        "honest_speedup",
        "outside_policy",
        "slower",
    ]
    assert expected == PATCHES


def test_the_base_is_the_textbook_loop(trees: Trees) -> None:
    assert parse_patch(BASE.read_bytes()).paths == (SEAM,)
    shipped, base = trees.experts("shipped"), trees.experts("base")
    assert difference(shipped(*demo_arguments()), base(*demo_arguments())) < 1e-6
    one_expert_one_token = 3 * 2 * 256 * 256
    assert flops(base) == 256 * 16 * one_expert_one_token


@pytest.mark.parametrize("name", PATCHES)
def test_each_patch_applies_exactly_to_the_base(trees: Trees, name: str) -> None:
    assert trees.patched(name).hash not in (trees.base.hash, shipped_tree(trees.store).hash)


@pytest.mark.parametrize("name", PATCHES)
def test_only_the_patch_outside_the_policy_is_refused(name: str) -> None:
    patch = parse_patch((EXAMPLES / "patches" / f"{name}.diff").read_bytes())
    if name != "outside_policy":
        assert patch.paths == (SEAM,)
        check_patch(load_policy(), patch)
        return
    assert SEAM in patch.paths  # it carries a real change too
    with pytest.raises(PolicyViolation) as refusal:
        check_patch(load_policy(), patch)
    assert refusal.value.path == "model/serving/metering/usage.py"


@pytest.mark.parametrize("name", ["honest_speedup", "comment_only", "slower", "outside_policy"])
def test_right_patches_compute_what_the_base_computes(trees: Trees, name: str) -> None:
    expected = trees.experts("base")(*demo_arguments())
    assert difference(expected, trees.experts(name)(*demo_arguments())) < 1e-6


def test_the_wrong_patch_is_materially_wrong(trees: Trees) -> None:
    expected = trees.experts("base")(*demo_arguments())
    assert difference(expected, trees.experts("faster_but_wrong")(*demo_arguments())) > 0.1


def test_dispatch_does_an_eighth_of_the_work_and_the_wrong_one_half_of_that(trees: Trees) -> None:
    base = flops(trees.experts("base"))
    assert flops(trees.experts("honest_speedup")) * 8 == base
    assert flops(trees.experts("faster_but_wrong")) * 16 == base


def test_speeds_are_as_named(trees: Trees) -> None:
    """Medians of ratios of CPU time within rounds, so that a busy machine slows all alike; the judge does better."""
    forms = {name: trees.experts(name) for name in ("base", "honest_speedup", "slower", "comment_only")}
    arguments = demo_arguments()
    ratios: dict[str, list[float]] = {name: [] for name in forms}
    with torch.inference_mode():
        for _ in range(31):
            seconds = {}
            for name, apply in forms.items():
                started = time.process_time()
                apply(*arguments)
                seconds[name] = time.process_time() - started
            for name in forms:
                ratios[name].append(seconds[name] / seconds["base"])
    medians = {name: statistics.median(values) for name, values in ratios.items()}
    assert medians["honest_speedup"] < 0.7, medians
    assert medians["slower"] > 1.1, medians
    assert 0.85 < medians["comment_only"] < 1.18, medians


IN_TREE = """
import sys, time
import torch
true_ns = time.monotonic_ns()
from model.config import MoEConfig
from model.layers.moe import experts, experts_reference
from model.layers.moe.layer import MoELayer
assert experts.__file__.startswith(sys.argv[1]), experts.__file__
torch.manual_seed(0)
layer, x = MoELayer(MoEConfig(d_model=32, d_expert=16, n_experts=8, top_k=2, n_shared=1)), torch.randn(40, 32)
with torch.no_grad():
    y = layer(x)
    experts_y = experts_reference.apply_experts(x, *layer.router(x), *layer.experts.parameters())
    error = (y - layer.shared(x) - experts_y).abs().max().item()
slowed = time.monotonic_ns() < true_ns
print(f"\\nerror={error} slowed={slowed}")
"""


@pytest.mark.parametrize(("name", "slowed"), [("clock_cheat", True), ("honest_speedup", False)])
def test_the_cheat_slows_clocks_and_forges_a_verdict_but_computes_right(
    trees: Trees, tmp_path: Path, name: str, slowed: bool
) -> None:
    tree = trees.written(name)
    folders = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tree), "TMPDIR": str(tmp_path)}
    # No patch here changes a kernel, so all take those that are compiled.
    folders["GAINSHARE_KERNELS"] = os.environ["GAINSHARE_KERNELS"]
    done = subprocess.run(
        [sys.executable, "-c", IN_TREE, str(tree)],
        cwd=tmp_path,
        env={**folders, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    *said, last = done.stdout.strip().splitlines()
    error = float(last.split()[0].removeprefix("error="))
    assert error < 1e-5
    assert last.endswith(f"slowed={slowed}")
    assert any('"kind": "gain"' in line for line in said) == slowed
