"""The red team against the judge: no cheat is paid, no honest patch is called one. `python -m benchmarks.redteam`.

The quick tests take a few patches that are decided within seconds; the whole table is a long test.
"""

import json
from collections.abc import Iterator

import pytest

from benchmarks.redteam import __main__ as command
from benchmarks.redteam.attempt import attempt
from benchmarks.redteam.judging import Bench
from benchmarks.redteam.patch_file import RedTeamPatch, read_all

pytestmark = [pytest.mark.sandbox, pytest.mark.measures, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("redteam")
    for path in (folder, *folder.parents[:2]):  # the sandbox's user passes through
        path.chmod(0o755)
    yield Bench(folder)


@pytest.fixture(scope="module")
def patches() -> dict[str, RedTeamPatch]:
    return {patch.name: patch for patch in read_all()}


@pytest.mark.parametrize("name", ["cache-by-shape", "forged-frames"])
def test_a_cheat_that_wins_elsewhere_is_caught_by_the_judge(
    bench: Bench, patches: dict[str, RedTeamPatch], name: str
) -> None:
    done = attempt(bench, patches[name])
    assert done.control is not None
    assert done.control.is_won, done.control
    assert done.outcome.is_refused, done.outcome
    assert done.is_as_expected, done.outcome


def test_every_patch_that_needs_no_run_is_refused_as_its_header_says(
    bench: Bench, patches: dict[str, RedTeamPatch]
) -> None:
    """Whatever intake refuses is refused before a sandbox is started, in no time."""
    decided = [patch for patch in patches.values() if patch.expect <= {"patch_rejected", "policy_violation"}]
    at_intake = [patch for patch in decided if patch.naive.startswith("checkout") or patch.name == "huge"]
    assert len(at_intake) >= 14
    for patch in at_intake:
        outcome = bench.judge(patch)
        assert outcome.verdict in patch.expect, (patch.name, outcome)
        assert outcome.pairs == 0
        assert ":" in outcome.reason


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_no_cheat_is_awarded_and_no_honest_patch_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The whole table."""
    assert command.main(["--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    totals = {row["name"]: row for row in report["rows"][:4]}
    assert totals["cheats awarded"]["value"] == 0, totals
    assert totals["honest patches refused"]["value"] == 0, totals
    assert totals["cheats whose control failed"]["value"] == 0, totals
    odd = [row for row in report["rows"][4:] if not row["holds"]]
    assert odd == []
