"""Rejected diffs: folded on the bounty's page, and limited per person and hour."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient

from bounty.models import Submission
from gainshare.accounts.models import Allowance, User
from gainshare.accounts.rate_limits import TooManyAttempts
from tests.bounty.bounty_world import World, diff_of_line


def junk(number: int) -> str:
    return f"this is no diff, number {number}"


def client_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def html_of(world: World) -> str:
    return Client().get(f"/bounties/{world.bounty.pk}/").content.decode()


def test_rejected_diffs_are_folded_and_counted_apart(world: World) -> None:
    bad = [world.submit(world.ann, junk(number)) for number in range(3)]
    html = html_of(world)
    assert "No one has submitted a patch that could be run yet" in html
    good = world.submit(world.bob, diff_of_line(1, "fast = 1"))
    html = html_of(world)
    folded = re.search(r'<details class="folded" id="rejected">.*?</details>', html, re.S)
    assert folded is not None and "3 rejected before they ran" in folded[0] and " open" not in folded[0]
    for submission in bad:
        assert f"/submissions/{submission.pk}/" in folded[0]
        assert html.count(str(submission.pk)) == 1
    assert str(good.pk) in html.replace(folded[0], "")
    assert 'Submissions</dt><dd>1<span class="note">and 3 rejected</span>' in html
    row = Client().get("/bounties/").content.decode()
    assert '<td data-label="Submissions" class="num">1</td>' in row


def test_of_many_the_newest_are_shown(
    world: World, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bounty.pages.bounties.REJECTED_SHOWN", 2)
    for number in range(3):
        world.submit(world.ann, junk(number))
    assert "The newest 2 are shown" in html_of(world)


def test_one_person_fills_no_list(world: World, settings: Settings) -> None:
    settings.REJECTIONS_PER_HOUR = 3
    client, path = client_of(world.ann), f"/bounties/{world.bounty.pk}/submit/"
    for number in range(3):
        assert client.post(path, {"diff": junk(number)}).status_code == 302
    refused = client.post(path, {"diff": junk(4)})
    html = refused.content.decode()
    assert refused.status_code == 429 and 1100 <= int(refused.headers["Retry-After"]) <= 1200
    assert "Too many rejected diffs in an hour. Try again in 20 minutes" in html
    assert "This diff was not read and not stored" in html and junk(4) in html  # what was typed stays
    with pytest.raises(TooManyAttempts):
        world.submit(world.ann, junk(5), world.open(title="Another"))  # of a person, not of a bounty
    assert Submission.objects.count() == 3
    # Others' diffs are read as ever; one's own wait, the good ones too, because none is read.
    assert world.submit(world.bob, junk(6)).state == "rejected"
    with pytest.raises(TooManyAttempts):
        world.submit(world.ann, diff_of_line(1, "fast = 1"))
    Allowance.objects.update(full_at=timezone.now() + timedelta(minutes=39))
    assert world.submit(world.ann, diff_of_line(1, "fast = 1")).state == "queued"
    assert world.submit(world.ann, junk(7)).state == "rejected"


def test_over_rest_the_refusal_says_when_to_come_back(world: World, settings: Settings) -> None:
    settings.REJECTIONS_PER_HOUR = 1
    client = APIClient()
    client.force_authenticate(world.ann)

    def send(diff: str) -> Any:
        body = {"bounty": str(world.bounty.pk), "diff": diff}
        return client.post("/api/v1/submissions/", body, format="json")

    assert send(junk(1)).status_code == 201
    refused = send(junk(2))
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limited")
    assert 3500 <= int(refused.headers["Retry-After"]) <= 3600
    assert "This diff was not read and not stored" in refused.json()["error"]["message"]
