"""Checks of merged trees on the lineage's page and in REST."""

from bounty.models import Lineage
from bounty.services.series.tip_checks import schedule_tip_checks
from tests.bounty.bounty_world import World
from tests.bounty.pages.test_slow_bases import client_of, page
from tests.bounty.services.series.test_tip_checks import FIRST, checked, later


def test_everyone_reads_when_a_merged_tree_was_checked_and_what_was_found(world: World) -> None:
    paid = world.vested(world.ann, FIRST, 0.3)
    assert "Checks of merged trees" not in page(world)
    later(25)
    schedule_tip_checks()
    assert "Checks of merged trees" in page(world) and "ordered" in page(world)
    world.judge(0.3)
    html = page(world)
    assert "kept" in html and "paid for" in html and str(paid.pk) in html
    (row,) = client_of(None).get(f"/api/v1/lineages/{world.lineage.name}/").json()["checks"]
    assert (row["submission"], row["outcome"], row["is_repetition"]) == (str(paid.pk), "kept", False)
    assert abs(row["log_ppm_estimate"] - 300_000) < 10_000 and row["ended_at"]
    run = client_of(None).get(f"/api/v1/runs/{row['run']}/").json()
    assert run["kind"] == "tip"


def test_a_failure_of_the_merged_tree_is_told_without_figures(world: World) -> None:
    world.vested(world.ann, FIRST, 0.3)
    crash = {"kind": "crash", "side": "candidate", "stage": "call", "detail": "it ended"}
    checked(world, 0.0, events=[crash])
    assert "the tree failed; it is checked once more" in page(world)
    (row,) = client_of(None).get(f"/api/v1/lineages/{world.lineage.name}/").json()["checks"]
    assert (row["outcome"], row["log_ppm_estimate"]) == ("failed", None)


def test_a_finding_is_told_with_what_follows(world: World) -> None:
    world.vested(world.ann, FIRST, 0.3)
    checked(world, 0.0)
    assert "it is checked once more" in page(world) and "Merges wait" not in page(world)
    schedule_tip_checks()
    world.judge(0.0)
    html = page(world, world.mira)
    assert "Merges wait" in html and "Two scheduled checks found that the base" in html
    assert "Bases in doubt" in client_of(world.mira).get("/desk/").content.decode()
    (found,) = client_of(world.mira).get("/api/v1/slow-bases/").json()["results"]
    assert found["base_tree"] == Lineage.objects.get(pk=world.lineage.pk).tip_id
