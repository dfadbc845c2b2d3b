"""Pages with many rows: they cost no more queries than pages with few, and have further pages."""

from uuid import uuid4

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from benchmarks.evidence.signing import generate_key
from bounty.models import Lineage, NoiseSample, Run, RunKind, Runner, RunState
from bounty.services.trees import create_lineage
from gainshare.accounts.models import User
from tests.bounty.bounty_world import World, diff_of_line


def html_and_queries(path: str, user: User | None = None) -> tuple[str, int]:
    client = Client()
    if user is not None:
        client.force_login(user)
    with CaptureQueriesContext(
        connection,
    ) as captured:
        response = client.get(path)
    assert response.status_code == 200
    return response.content.decode(), len(captured)


def measured(world: World, runner: Runner, noise_log_ppm: int) -> None:
    """An A/A run of this runner, finished with this noise."""
    run = Run.objects.create(
        kind=RunKind.AA,
        suite="moe_forward",
        preset="demo",
        hardware="cpu",
        base_tree=world.tree,
        candidate_tree=world.tree,
        runner=runner,
        state=RunState.FINISHED,
        finished_at=timezone.now(),
    )
    NoiseSample.objects.create(
        run=run,
        runner=runner,
        suite=run.suite,
        preset=run.preset,
        pairs=10,
        noise_log_ppm=noise_log_ppm,
        median_log_ppm=0,
        verdict_kind="no_gain",
        is_good=True,
    )


def add_rows(world: World, number: int) -> None:
    """More of everything that lists show."""
    for _ in range(number):
        bounty = world.open(title=f"bounty {uuid4().hex[:6]}", escrow_microcredits=1_000_000)
        world.submit(world.ann, diff_of_line(1, f"x = '{uuid4().hex}'"), bounty)
        runner, _ = world.add_runner(generate_key())
        measured(world, runner, 9_000)


@pytest.mark.parametrize("path", ["/bounties/", "/runners/", "/submissions/", "/lineages/", "LINEAGE"])
def test_a_longer_list_costs_no_more_queries(world: World, path: str) -> None:
    path = f"/lineages/{world.lineage.name}/" if path == "LINEAGE" else path
    add_rows(world, 2)
    _, few = html_and_queries(path, world.ann)
    add_rows(world, 6)
    _, many = html_and_queries(path, world.ann)
    assert many == few


def test_a_bounty_with_more_submissions_costs_no_more_queries(world: World) -> None:
    path = f"/bounties/{world.bounty.pk}/"
    world.submit(world.ann, diff_of_line(1, "a = 1"))
    _, few = html_and_queries(path, world.bob)
    for number in range(2, 6):
        world.submit(world.ann, diff_of_line(number, "a = 1"))
    _, many = html_and_queries(path, world.bob)
    assert many == few


def test_each_runner_is_shown_with_its_own_newest_noise(world: World) -> None:
    other, _ = world.add_runner(generate_key())
    for runner, noise in ((world.runner, 11_000), (other, 22_000), (world.runner, 33_000)):
        measured(world, runner, noise)
    html, _ = html_and_queries("/runners/")
    row = html[html.index(world.runner.name) :].split("</tr>")[0]
    assert "3.30" in row
    assert "2.20" in html[html.index(other.name) :].split("</tr>")[0]
    assert "1.10" not in html


def test_many_lineages_and_runners_have_pages(world: World) -> None:
    for number in range(55):
        create_lineage(actor=world.mira, name=f"many-{number}", base_tree=world.tree.pk)
    Runner.objects.bulk_create(
        Runner(
            name=f"r{number:03}",
            hardware="cpu",
            token_hash=uuid4().hex,
            key_id=f"key-{number}",
            public_key="",
        )
        for number in range(55)
    )
    assert Lineage.objects.count() == 56
    for path in ("/lineages/", "/runners/"):
        first, _ = html_and_queries(path)
        second, _ = html_and_queries(f"{path}?page=2")
        assert "Page 1 of 2" in first and "Page 2 of 2" in second
    assert "many-54" in html_and_queries("/lineages/")[0]
