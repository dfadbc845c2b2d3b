"""Guard runs as pages show them: rails with margin and result, a plot per suite, a badge and a progress of their own."""

import copy
from typing import Any

from django.test import Client
from rest_framework.test import APIClient

from benchmarks.catalogue import guarding_suites
from benchmarks.evidence.document import build_document, seal
from benchmarks.judging.judge import planned_pairs
from bounty.models import Evidence, Run, RunKind, Submission
from bounty.pages.run_views import run_view, verdict_words
from bounty.services.awards.advance import advance_submission
from bounty.services.runs.guard_rails import RailResult, rails_of
from bounty.stages import pairs_words
from tests.bounty.bounty_world import World, diff_of_line, job_of
from tests.bounty.synthetic import invented_document

DIFF = diff_of_line(1, "fast = 1")
CASES = {"decode/small": 0.0, "prefill/small": 0.01, "quality/small": 0.0}


def guard_evidence(world: World, run: Run, cases: dict[str, float], per_case: int = 6) -> dict[str, Any]:
    """Evidence of a guard run over these cases, each with its effect in nats."""
    parts: list[dict[str, Any]] = []
    document: dict[str, Any] = {}
    for case, effect in cases.items():
        document = invented_document(run=job_of(run), speed_up_log=effect, units=per_case)
        for pair in document["pairs"]:
            if not pair["control"]:
                parts.append({**copy.deepcopy(pair), "case": case, "index": len(parts)})
    suite = copy.deepcopy(document["suite"])
    margin = suite["cases"][0]
    suite["cases"] = [
        {**margin, "name": case, "only_if_numerics_changed": case.startswith("quality/")} for case in cases
    ]
    document = {key: value for key, value in document.items() if key not in ("schema", "verdict")}
    document |= {"suite": suite, "pairs": parts}
    document["checks"] = {**document["checks"], "outputs_checked": 10_000}
    return seal(build_document(**document), world.key)


def guarded(world: World, cases: dict[str, float]) -> Submission:
    """Ann's gain, confirmed, with a guard run over these cases."""
    submission = world.submit(world.ann, DIFF)
    world.gate(submission, 0.3)
    world.gate(submission, 0.3)
    run = world.lease()
    world.commit(run)
    world.record(run, guard_evidence(world, run, cases))
    return advance_submission(submission_id=submission.pk)


def guard_run(submission: Submission) -> Run:
    return submission.runs.select_related("verdict__evidence").get(kind=RunKind.GUARD)


def page(submission: Submission) -> str:
    return Client().get(f"/submissions/{submission.pk}/").content.decode()


def test_every_rail_is_listed_with_its_suite_margin_and_result(world: World) -> None:
    submission = guarded(world, CASES)
    rows = {row.name: row for row in rails_of(Evidence.objects.get(run=guard_run(submission)))}
    assert set(rows) == {*CASES, *(f"peak memory of {case}" for case in CASES), "time to load"}
    assert rows["decode/small"].suite == "decode" and rows["time to load"].suite == ""
    assert rows["decode/small"].margin_log_ppm == -30_000 and rows["decode/small"].pairs == 6
    assert rows["prefill/small"].result == RailResult.HOLDS
    assert rows["quality/small"].result == RailResult.NOT_NEEDED
    html = page(submission)
    assert "guard rails hold</span>" in html and "peak memory of prefill/small" in html
    assert html.count(">holds</span>") == 5 and html.count(">not needed</span>") == 2
    assert "5 of 5" in html  # in the bar of stages


def test_a_broken_rail_is_named_on_its_badge_and_in_its_row(world: World) -> None:
    submission = guarded(world, {**CASES, "decode/small": -0.2})
    html = page(submission)
    assert "a guard rail does not hold</span>" in html and ">does not hold</span>" in html
    assert guard_run(submission).verdict.bound_side == "lower"


def test_each_suite_has_a_plot_of_its_own(world: World) -> None:
    submission = guarded(world, CASES)
    view = run_view(guard_run(submission), submission)
    assert [plot.suite for plot in view.plots] == ["decode", "prefill", "quality"]
    assert [plot.svg.count('class="pair"') for plot in view.plots] == [6, 6, 6]
    assert abs((view.plots[1].estimate_log_ppm or 0) - 10_000) < 5_000


def test_rest_lists_the_rails_too_once_there_is_a_verdict(world: World) -> None:
    submission = world.submit(world.ann, DIFF)
    world.gate(submission, 0.3)
    world.gate(submission, 0.3)
    run = world.lease()
    client = APIClient()
    client.force_authenticate(world.ruth)
    assert client.get(f"/api/v1/runs/{run.pk}/").json()["rails"] == []
    world.commit(run)
    world.record(run, guard_evidence(world, run, CASES))
    assert client.get(f"/api/v1/runs/{run.pk}/").json()["rails"] == []  # the award is not booked yet
    advance_submission(submission_id=submission.pk)
    rails = APIClient().get(f"/api/v1/runs/{run.pk}/").json()["rails"]
    assert len(rails) == 7
    assert rails[0] | {"log_ppm_estimate": 0, "log_ppm_bound": 0} == {
        "name": "decode/small",
        "suite": "decode",
        "margin_log_ppm": -30_000,
        "log_ppm_estimate": 0,
        "log_ppm_bound": 0,
        "pairs": 6,
        "result": "holds",
    }


def test_other_runs_and_lost_documents_have_no_rails(world: World) -> None:
    submission = guarded(world, CASES)
    gate = Evidence.objects.get(run__submission=submission, run__kind=RunKind.GATE)
    assert rails_of(gate) == ()
    evidence = Evidence.objects.get(run=guard_run(submission))
    evidence.blob = "0" * 64
    assert rails_of(evidence) == ()


def test_a_guards_progress_counts_the_plans_pairs_over_its_rails() -> None:
    measured = {"decode/small": 12, "prefill/small": 6, "quality/small": 0}
    # Only decode is unclear: what the others have counts as before.
    assert planned_pairs(measured, {"decode/small": 24, "prefill/small": 0, "quality/small": 0}) == 30
    assert planned_pairs({}, {"decode/small": 6, "prefill/small": 6}) == 12
    n_suites = len(guarding_suites("moe_forward", "demo"))
    assert pairs_words(kind="guard", suite="moe_forward", preset="demo", done=28, most=36) == (
        f"28 of 36 pairs over the rails of {n_suites} other suites; more for rails that are not clear yet"
    )
    assert "the rails of 1 other suite;" in pairs_words(
        kind="guard", suite="moe_forward", preset="tour", done=1, most=12
    )
    assert (
        pairs_words(kind="confirmation", suite="moe_forward", preset="demo", done=3, most=30)
        == "3 of 30 pairs"
    )
    assert pairs_words(kind="gate", suite="moe_forward", preset="demo", done=0, most=0) == ""
    assert "moe_forward" not in [suite.name for suite, _ in guarding_suites("moe_forward", "demo")]


def test_only_a_guards_gain_has_words_of_its_own() -> None:
    assert verdict_words("guard", "gain") == "guard rails hold"
    assert verdict_words("guard", "quality_loss") == "a guard rail does not hold"
    assert verdict_words("guard", "policy_violation") == "policy violation"
    assert verdict_words("gate", "gain") == "gain"
    assert verdict_words("gate", "regression") == "regression"
