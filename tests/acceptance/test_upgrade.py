"""A home of an earlier version starts with all its data; a home of a later version is refused and not changed."""

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from benchmarks.evidence.verify import verify_bytes
from benchmarks.patch.trees import BlobStore
from gainshare.local.errors import LocalModeError
from tests.acceptance.archived_home import cluster_of, known, unpack
from tests.acceptance.running_stack import ROOT, Stack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]


def log_in(url: str, username: str, password: str) -> str:
    """The page that a browser gets after signing in."""
    with httpx.Client(base_url=url, follow_redirects=True, timeout=60, trust_env=False) as browser:
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', browser.get("/login/").text)
        assert token is not None
        form = {"csrfmiddlewaretoken": token[1], "username": username, "password": password}
        response = browser.post("/login/", data=form, headers={"Referer": f"{url}/login/"})
        assert response.status_code == 200
        return browser.get("/account/").text


def migrations_of_ours() -> set[tuple[str, str]]:
    found = [
        *Path(ROOT, "platform/gainshare").glob("*/migrations/0*.py"),
        *Path(ROOT, "bounty/migrations").glob("0*.py"),
    ]
    return {(path.parent.parent.name, path.stem) for path in found}


def holds(stack: Stack) -> bool:
    with stack.client() as admin:
        rows = admin.get("audit/").json()["invariants"]
    return len(rows) > 10 and all(row["holds"] for row in rows)


def stored_evidence(stack: Stack, run: str) -> bytes:
    """The sealed document of a run, from the home's store."""
    with stack.database() as database:
        row = database.execute("SELECT blob FROM bounty_evidence WHERE run_id = %s", [run]).fetchone()
    assert row is not None
    return BlobStore(stack.home.root / "blobs").get(row[0])


def test_a_home_made_before_comes_up_with_all_that_is_in_it(start_stack: Callable[..., Stack]) -> None:
    stack, then = start_stack(prepare=unpack), known()
    assert {name: row.state for name, row in stack.state().services.items()}.items() >= {
        (name, "ready") for name in ("postgres", "valkey", "web", "control", "beat", "node")
    }
    with stack.database() as database:
        applied = set(database.execute("SELECT app, name FROM django_migrations").fetchall())
    assert applied >= migrations_of_ours()
    assert (stack.home.root / "format").read_text() == "1\n"
    assert holds(stack)
    people = {"admin": stack.admin_password, "fiona": then["fiona_password"]}
    for username, password in people.items():
        assert username in log_in(stack.url, username, password)
    with stack.client() as admin, stack.client(then["fiona_key"]) as fiona:
        bounties = {bounty["id"]: bounty["title"] for bounty in admin.get("bounties/").json()["results"]}
        assert bounties == then["bounties"]
        for pk, seen in then["submissions"].items():
            now = admin.get(f"submissions/{pk}/").json()
            verdict = now["verdict"] and now["verdict"]["kind"]
            assert (now["state"], verdict) == (seen["state"], seen["verdict"])
            assert [run["id"] for run in now["runs"]] == seen["runs"]
        assert fiona.get("credits/").json()["balance"]["available"] == then["fiona_available"]
        undecided = {
            run for seen in then["submissions"].values() if not seen["verdict"] for run in seen["runs"]
        }
        for run in then["evidence"]:
            answer = admin.get(f"runs/{run}/evidence/")
            assert (answer.status_code == 403) == (run in undecided), answer.text[:300]
            report = verify_bytes(stored_evidence(stack, run))
            assert report.ok, [check for check in report.checks if not check.holds]
            assert answer.status_code == 403 or answer.content == stored_evidence(stack, run)
        message = {"role": "user", "content": "Still there?"}
        answer = fiona.post(
            f"{stack.url}/v1/chat/completions", json={"model": "tiny", "messages": [message], "max_tokens": 4}
        )
        assert answer.status_code == 200, answer.text
    assert holds(stack)
    _refuses_a_later_version(stack)


def _refuses_a_later_version(stack: Stack) -> None:
    """The same home, once a version of the future has migrated it."""
    with stack.database() as database:
        database.execute(
            "INSERT INTO django_migrations (app, name, applied) VALUES ('bounty', '9999_of_the_future', now())"
        )
        rows = database.execute(
            "SELECT (SELECT count(*) FROM accounts_user), (SELECT count(*) FROM ledger_entry)"
        ).fetchone()
    stack.stop()
    with pytest.raises(
        LocalModeError, match=r"last used by a newer version.*bounty\.9999_of_the_future"
    ) as refusal:
        stack.start()
    assert "git pull; make up" in str(refusal.value) and "Nothing was changed" in str(refusal.value)
    stack.home.create()  # a stopped stack leaves no folder for sockets
    cluster = cluster_of(stack.home)
    cluster.initialise()
    server = cluster.start(stack.folder / "log")
    with stack.database() as database:
        kept = database.execute(
            "SELECT (SELECT count(*) FROM accounts_user), (SELECT count(*) FROM ledger_entry)"
        ).fetchone()
        database.execute("DELETE FROM django_migrations WHERE name = '9999_of_the_future'")
    cluster.stop(server)
    assert kept == rows
    stack.start()
    assert holds(stack)
