"""Soak: many users stream for minutes, half of them hang up; afterwards nothing is open and no memory was kept."""

import os
import random
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from benchmarks.sandbox.accounting.processes import tree
from gainshare.cli.client import Site
from gainshare.cli.demo.people import Person, contributor
from tests.acceptance.running_stack import wait_for

SOAK_S = float(os.environ.get("GAINSHARE_SOAK_S", "600"))
USERS = 8
CREDITS_MICROCREDITS = 1_000_000_000
KEPT_MEMORY = 1.25
"""How much larger a process may be after the soak than after its first minute."""

pytestmark = [pytest.mark.long, pytest.mark.stack, pytest.mark.timeout(SOAK_S + 600)]


def test_minutes_of_streams_and_hang_ups_leave_nothing_behind(stack: Any) -> None:
    people = [_customer(stack, number) for number in range(USERS)]
    _talk_for(stack, people, min(60.0, SOAK_S / 4), seed=1)
    before = {name: _resident_bytes(stack.pid(name)) for name in ("web", "node")}
    failures = _talk_for(stack, people, SOAK_S, seed=2)
    assert failures == []

    def is_settled() -> bool:
        with stack.database() as connection:
            row = connection.execute("SELECT count(*) FROM ledger_hold WHERE state = 'open'").fetchone()
        return row is not None and row[0] == 0

    wait_for(is_settled, within_s=60, what="every hold to be settled or expired")
    admin = Site(stack.url, stack.key)
    assert [row for row in admin.get("audit/")["invariants"] if not row["holds"]] == []
    for person in people:
        assert 0 < person.get("credits/")["balance"]["available"] < CREDITS_MICROCREDITS
    after = {name: _resident_bytes(stack.pid(name)) for name in before}
    for name, size in after.items():
        assert size < before[name] * KEPT_MEMORY, (name, before, after)


def _customer(stack: Any, number: int) -> Person:
    person = contributor(stack.url, f"soak-{number}-{uuid.uuid4().hex[:8]}")
    admin = Site(stack.url, stack.key)
    amount = {"amount_microcredits": CREDITS_MICROCREDITS, "memo": "soak"}
    admin.post("treasury/fund/", {"transfer_id": str(uuid.uuid4()), **amount})
    grant = {"transfer_id": str(uuid.uuid4()), "username": person.name, "source": "starter", **amount}
    admin.post("grants/", grant)
    return person


def _talk_for(stack: Any, people: list[Person], seconds: float, *, seed: int) -> list[str]:
    """Every person streams without a pause, hanging up on about half; what failed that should not have."""
    ends, failures = time.monotonic() + seconds, []

    def talk(person: Person, rng: random.Random) -> None:
        with openai.OpenAI(base_url=f"{stack.url}/v1", api_key=person.key, max_retries=3) as client:
            while time.monotonic() < ends:
                try:
                    _one_request(client, rng)
                except (openai.OpenAIError, httpx.HTTPError) as error:
                    failures.append(f"{person.name}: {error!r}")
                    return

    threads = [
        threading.Thread(target=talk, args=(person, random.Random(f"{seed} {index}")))
        for index, person in enumerate(people)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def _one_request(client: openai.OpenAI, rng: random.Random) -> None:
    hang_up_after = rng.choice([None, rng.randrange(1, 20)])
    stream = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "x" * rng.randrange(1, 200)}],
        max_tokens=rng.randrange(1, 64),
        stream=True,
    )
    with stream:
        for count, _chunk in enumerate(stream, start=1):
            if count == hang_up_after:
                return


def _resident_bytes(pid: int) -> int:
    """Of the process and its descendants: a model node runs below its starter."""
    pages = [int(Path(f"/proc/{stat.pid}/statm").read_text().split()[1]) for stat in tree(pid)]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")
