"""kill -9 in the middle of a ledger transaction: nothing of it stays, and repeating the call completes it."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from django.db import connection
from django.utils import timezone

from gainshare.ledger import services
from gainshare.ledger.models import Entry, Hold, Transfer
from tests.gainshare.ledger.ledger_world import World, violations

pytestmark = pytest.mark.django_db(transaction=True)

ROOT = Path(__file__).resolve().parents[3]


def environment(**more: str) -> dict[str, str]:
    """This process's environment, with the database that the test itself uses."""
    database = connection.settings_dict
    login = quote(str(database["USER"]), safe="")
    if database["PASSWORD"]:
        login += ":" + quote(str(database["PASSWORD"]), safe="")
    url = f"postgresql://{login}@/{database['NAME']}?host={quote(str(database['HOST']), safe='')}"
    if database["PORT"]:
        url += f"&port={database['PORT']}"
    paths = os.pathsep.join([str(ROOT / "platform"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    settings = os.environ.get("DJANGO_SETTINGS_MODULE", "gainshare.config.settings")
    return {
        **os.environ,
        "DATABASE_URL": url,
        "PYTHONPATH": paths,
        "DJANGO_SETTINGS_MODULE": settings,
        **more,
    }


def call_in_process(name: str, *, fault: str, folder: Path, **arguments: Any) -> int:
    """Calls one service in a process of its own with the fault armed; its exit status."""
    document = json.dumps(arguments, default=str)
    done = subprocess.run(
        [sys.executable, "-m", "tests.gainshare.ledger.ledger_process", "call", name, document],
        cwd=ROOT,
        env=environment(GAINSHARE_FAULT=fault, GAINSHARE_FAULT_DIR=str(folder)),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode


def picture() -> tuple[Any, ...]:
    """All rows that an unfinished call could have left."""
    return (
        services.totals(),
        Entry.objects.count(),
        sorted(Transfer.objects.values_list("pk", "state", "posted_amount")),
        sorted(Hold.objects.values_list("pk", "state", "settled")),
    )


def prepared(world: World, name: str) -> dict[str, Any]:
    """The arguments of one call, with what must exist before it."""
    if name == "grant_credits":
        return {"transfer_id": uuid4(), "user": world.ann.pk, "amount_microcredits": 40, "source": "grant"}
    if name == "settle_hold":
        for _ in range(3):
            world.grant(world.ann, 20)
        return {"hold_id": world.hold(world.ann, 60).pk, "amount_microcredits": 50}
    if name == "open_escrow":
        return {"transfer_id": uuid4(), "reference": "bounty:1", "amount_microcredits": 70}
    award = world.book(world.ann, world.escrow(100), 60)
    if name == "reverse_award":
        services.vest_award(transfer_id=award.pk)
        world.spend(world.ann, 10)
        return {"transfer_id": award.pk, "reversal_id": uuid4(), "reason": "cheat found"}
    assert name == "vest_award"
    return {"transfer_id": award.pk}


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("grant_credits", "ledger.entries_written"),
        ("open_escrow", "ledger.entries_written"),
        ("settle_hold", "ledger.transfer_resolved"),
        ("settle_hold", "ledger.entries_written"),
        ("vest_award", "ledger.transfer_resolved"),
        ("reverse_award", "ledger.entries_written"),
    ],
)
def test_a_call_killed_in_the_middle_leaves_nothing_and_can_be_repeated(
    tmp_path: Path, name: str, fault: str
) -> None:
    arguments = prepared(World(), name)
    before = picture()
    assert call_in_process(name, fault=fault, folder=tmp_path, **arguments) == -signal.SIGKILL
    assert (tmp_path / fault).exists(), "the fault never fired"
    assert picture() == before
    assert violations() == []

    assert call_in_process(name, fault=fault, folder=tmp_path, **arguments) == 0
    done = picture()
    assert done != before
    assert call_in_process(name, fault=fault, folder=tmp_path, **arguments) == 0
    assert picture() == done
    assert violations() == []


def spend_until_killed(user_id: int, seed: int, log: Path, seconds: float) -> None:
    """Starts a spender, kills it with SIGKILL after some work, wherever it is."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.gainshare.ledger.ledger_process", "spend", str(user_id), str(seed)],
            cwd=ROOT,
            env=environment(),
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    deadline = time.monotonic() + 60
    while b"done" not in log.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(seconds)
    assert process.poll() is None, log.read_text()
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL


def violations_after_kills(rounds: int, folder: Path) -> list[str]:
    """Invariants that do not hold after spenders were killed; that sums are right is asserted here."""
    rng = random.Random(7)
    world = World()
    world.grant(world.ann, 200_000)
    for number in range(rounds):
        # The same seed again and again: each new process repeats the calls of the killed one, then goes on.
        spend_until_killed(world.ann.pk, 1, folder / f"{number}.log", rng.uniform(0.0, 0.4))
    assert Hold.objects.count() > rounds, "the killed processes had done nothing"
    services.expire_holds(now=timezone.now() + timedelta(minutes=1))
    settled = sum(Hold.objects.values_list("settled", flat=True))
    assert settled > 0
    assert services.balance(world.ann) == services.Balance(
        available=200_000 - settled, held=0, unvested=0, owed=0
    )
    assert services.totals().revenue == settled
    services.seal_entries()
    return violations()


def test_a_spender_killed_at_random_loses_and_doubles_nothing(tmp_path: Path) -> None:
    assert violations_after_kills(4, tmp_path) == []


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_spender_killed_forty_times_loses_and_doubles_nothing(tmp_path: Path) -> None:
    assert violations_after_kills(40, tmp_path) == []
