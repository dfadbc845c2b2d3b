"""The naive harnesses and the plain timers: what each falls for, and that it sees nothing where nothing is."""

from collections.abc import Iterator

import pytest

from benchmarks.redteam.attempt import control_of
from benchmarks.redteam.judging import Bench
from benchmarks.redteam.naive import Control, run_control
from benchmarks.redteam.patch_file import CHEATS, HONEST, RedTeamPatch, read_all

pytestmark = [pytest.mark.sandbox, pytest.mark.measures, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("controls")
    for path in (folder, *folder.parents[:2]):  # the sandbox's user passes through
        path.chmod(0o755)
    yield Bench(folder)


@pytest.fixture(scope="module")
def patches() -> dict[str, RedTeamPatch]:
    return {patch.name: patch for patch in read_all([CHEATS, HONEST])}


def control(bench: Bench, harness: str, patch: RedTeamPatch) -> Control:
    """`patch` in a harness that its header need not name."""
    base, candidate = bench.base(patch), bench.take_in(patch)
    with bench.written(base, candidate) as folders:
        mounts = {
            "/base/model": folders[base.hash] / "model",
            "/candidate/model": folders[candidate.hash] / "model",
        }
        return run_control(harness, mounts, level=bench.level)


@pytest.mark.parametrize("name", ["attention-sees-ahead", "patches-the-counters"])
def test_a_scorer_of_another_kind_falls_for_its_cheat(
    bench: Bench, patches: dict[str, RedTeamPatch], name: str
) -> None:
    found = control_of(bench, patches[name])
    assert found.is_won, found


def test_an_honest_patch_changes_no_loss(bench: Bench, patches: dict[str, RedTeamPatch]) -> None:
    assert control(bench, "held_out_loss", patches["renamed"]).ratio == 1.0


@pytest.mark.long
@pytest.mark.parametrize("harness", ["cosine", "torch_timer", "engine_steps", "own_counters"])
def test_an_honest_patch_wins_nothing(bench: Bench, patches: dict[str, RedTeamPatch], harness: str) -> None:
    found = control(bench, harness, patches["comments"])
    assert 0.3 < found.ratio < 2.0, found


@pytest.mark.long
@pytest.mark.parametrize(
    ("harness", "cheat"), [("cosine", "agreeable-comparisons"), ("torch_timer", "zeros")]
)
def test_what_is_wrong_at_once_is_refused(
    bench: Bench, patches: dict[str, RedTeamPatch], harness: str, cheat: str
) -> None:
    found = control(bench, harness, patches[cheat])
    assert found.ratio == 0.0, found


@pytest.mark.long
def test_every_cheat_from_number_50_on_wins_twice_where_no_one_looks(
    bench: Bench, patches: dict[str, RedTeamPatch]
) -> None:
    """Measured again where noise may have hidden it: 2x is a claim about the best of three."""
    lost = [
        patch.path.name
        for patch in patches.values()
        if patch.is_cheat
        and patch.number >= 50
        and not patch.naive.startswith("checkout")
        and not any(control_of(bench, patch).is_won for _ in range(3))
    ]
    assert lost == []
