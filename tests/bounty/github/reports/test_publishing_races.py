"""Wake-ups by several workers at once, doubled and in any order: one comment a pull request, one check run a head."""

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from django.db import connection

from bounty.github.reports import publishing
from bounty.github.reports.publishing import publish, publish_due
from bounty.github.standin.control.standin import StandIn
from bounty.models import Report
from tests.bounty.bounty_world import World
from tests.bounty.github.reports.hosted import Hosted

pytestmark = pytest.mark.django_db(transaction=True)

WAKE_UPS = 200


def wake(pull_request_id: UUID) -> None:
    try:
        publish(pull_request_id)
    finally:
        connection.close()


def test_200_shuffled_wake_ups_by_several_workers(standin: StandIn) -> None:
    hosted = Hosted(World(), standin=standin)
    cora, pulls, rows = hosted.pull.author, [hosted.pull], [hosted.pull_request]
    heads = [hosted.submitted(3)]
    for line in (4, 5):
        pulls.append(standin.open_pull_request(hosted.there, cora, {"model/router.py": f"gate = {line}\n"}))
        rows.append(hosted.open(number=pulls[-1].number))
        heads.append(hosted.submitted(line, of=rows[-1], sha=pulls[-1].head_sha))
    wakes = [row.pk for row in rows for _ in range(WAKE_UPS // len(rows) + 1)]
    random.Random(7).shuffle(wakes)
    with ThreadPoolExecutor(4) as workers:
        first = [workers.submit(wake, pk) for pk in wakes[: WAKE_UPS // 2]]
        for head in heads:  # verdicts come while the wake-ups are worked off
            assert head.submission is not None
            hosted.world.gate(head.submission, 0.0)
        rest = [workers.submit(wake, pk) for pk in wakes[WAKE_UPS // 2 :]]
        for done in (*first, *rest):
            done.result(timeout=120)
    publish_due()
    assert [len(pull.comments) for pull in pulls] == [1, 1, 1]
    assert Counter(check.head_sha for check in hosted.there.checks) == dict.fromkeys(
        (head.sha for head in heads), 1
    )
    assert {check.conclusion for check in hosted.there.checks} == {"neutral"}
    assert all("Verdict: no gain" in pull.comments[0].body for pull in pulls)
    assert Report.objects.count() == 6


@pytest.mark.parametrize("at", ["send", "leave"])
def test_a_wake_up_while_another_worker_reports_is_not_lost(
    at: str, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command is answered while the comment is sent, or when all is sent: the same worker sends the answer as well."""
    hosted = Hosted(World(), standin=standin)
    hosted.submitted()
    place, name = {"send": (publishing.sending, "send"), "leave": (publishing, "leave")}[at]
    real, woken = getattr(place, name), []

    def wake_meanwhile() -> None:
        woken.append(True)
        hosted.command("/status", answer="It waits.")
        with ThreadPoolExecutor(1) as other:
            other.submit(wake, hosted.pull_request.pk).result(timeout=60)

    def and_wake(*arguments: Any, **named: Any) -> Any:
        if not woken:
            wake_meanwhile()
        return real(*arguments, **named)

    monkeypatch.setattr(place, name, and_wake)
    publish(hosted.pull_request.pk)
    assert len(hosted.comments) == 1 and "It waits." in hosted.comments[0]
