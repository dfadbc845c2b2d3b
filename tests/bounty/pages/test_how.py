"""The page that explains, and the links that lead to its entries."""

import re
from pathlib import Path

import pytest
from django.test import Client

from benchmarks.judging.verdicts import VerdictKind
from tests.bounty.bounty_world import World, diff_of_line

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.django_db


def html_of(path: str) -> str:
    response = Client().get(path)
    assert response.status_code == 200
    return response.content.decode()


def test_every_verdict_is_explained_and_the_navigation_leads_there() -> None:
    html = html_of("/how/")
    for kind in VerdictKind:
        assert re.search(rf'<dt id="{kind.value}">[^<]+</dt><dd>[^<]{{20,}}</dd>', html), kind
    assert '<a href="/how/" aria-current="page">Guide</a>' in html


def test_every_link_to_an_entry_finds_it() -> None:
    html = html_of("/how/")
    entries = set(re.findall(r'id="([a-z_]+)"', html))
    linked = set()
    for app in ("platform/gainshare", "bounty"):
        for file in (ROOT / app).rglob("templates/**/*.html"):
            linked |= set(re.findall(r"(?:\{% url 'how' %\}|how_url \}\})#([a-z_]+)", file.read_text()))
    assert len(linked) >= 4 and linked <= entries


def test_a_verdict_leads_to_its_meaning(world: World) -> None:
    submission = world.submit(world.ann, "this is no diff")
    assert 'href="/how/#patch_rejected"' in html_of(f"/submissions/{submission.pk}/")


def test_a_submission_that_is_being_judged_is_followed_without_a_script(world: World) -> None:
    refresh = '<noscript><meta http-equiv="refresh" content="10"></noscript>'
    settled = world.submit(world.ann, "this is no diff")
    assert refresh not in html_of(f"/submissions/{settled.pk}/")
    waiting = world.submit(world.ann, diff_of_line(1, "a = 1"))
    assert refresh in html_of(f"/submissions/{waiting.pk}/")
