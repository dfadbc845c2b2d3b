"""`gainshare submit` and `gainshare status` against a site that answers from a script."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gainshare.cli.contributor.submission import describe, is_resting
from tests.command_here import Command, error_of, lone_command
from tests.http_servers import serving

pytestmark = pytest.mark.slow


@pytest.fixture
def gainshare(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    return lone_command(monkeypatch, capfd, tmp_path / "home")


class ScriptedSite(ThreadingHTTPServer):
    """Answers GETs of one submission from a script, one answer after the other, and keeps what was posted."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), ScriptedHandler)
        self.answers: list[dict[str, Any]] = []
        self.posted: list[tuple[str, dict[str, Any], str]] = []


class ScriptedHandler(BaseHTTPRequestHandler):
    server: ScriptedSite

    def do_GET(self) -> None:
        answers = self.server.answers
        self._answer(200, answers.pop(0) if len(answers) > 1 else answers[0])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.posted.append((self.path, body, self.headers["Authorization"]))
        if body["bounty"] == "closed":
            self._answer(409, {"error": {"code": "bounty_closed", "message": "This bounty is closed."}})
        else:
            self._answer(201, {"id": "s1", "state": "queued", "runs": [], "verdict": None})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


QUEUED = {"id": "s1", "state": "queued", "runs": [], "verdict": None}
JUDGING = {
    "id": "s1",
    "state": "judging",
    "verdict": None,
    "runs": [
        {"id": "r1", "kind": "gate", "state": "measuring", "pairs_done": 3, "pairs_max": 48, "attempt": 1}
    ],
}
JUDGED = {
    "id": "s1",
    "state": "judged",
    "verdict": {"kind": "no_gain", "reason": "not [bold]faster[/]"},
    "runs": [
        {"id": "r1", "kind": "gate", "state": "finished", "pairs_done": 12, "pairs_max": 48, "attempt": 1}
    ],
}


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, gainshare: Command) -> Iterator[ScriptedSite]:
    site = ScriptedSite()
    monkeypatch.setenv("GAINSHARE_URL", f"http://127.0.0.1:{site.server_port}/")
    monkeypatch.setenv("GAINSHARE_KEY", "gs_p_s")
    with serving(site):
        yield site


def test_submit_posts_the_diff_and_prints_the_id(
    scripted: ScriptedSite, gainshare: Command, tmp_path: Path
) -> None:
    (tmp_path / "my.diff").write_text("--- a/model/x.py\n+++ b/model/x.py\n")
    status, out, _ = gainshare("submit", "b1", str(tmp_path / "my.diff"))
    assert status == 0
    assert "submission s1: queued" in out
    assert scripted.posted == [
        (
            "/api/v1/submissions/",
            {"bounty": "b1", "diff": "--- a/model/x.py\n+++ b/model/x.py\n"},
            "Bearer gs_p_s",
        )
    ]


def test_submit_and_watch_ends_with_the_verdict(
    scripted: ScriptedSite, gainshare: Command, tmp_path: Path
) -> None:
    scripted.answers = [QUEUED, JUDGING, JUDGED]
    (tmp_path / "my.diff").write_text("x")
    status, out, _ = gainshare("submit", "b1", str(tmp_path / "my.diff"), "--watch", "--json")
    assert status == 0
    assert json.loads(out)["verdict"]["kind"] == "no_gain"
    assert len(scripted.answers) == 1


def test_submission_status_shows_runs_and_reason_literally(
    scripted: ScriptedSite, gainshare: Command
) -> None:
    scripted.answers = [JUDGED]
    status, out, _ = gainshare("status", "s1")
    assert status == 0
    assert "no_gain: not [bold]faster[/]" in out
    assert "r1" in out
    assert "12" in out


@pytest.mark.parametrize(
    ("content", "bounty", "code"),
    [(None, "b1", "unreadable"), (b"\xff\xfe\x00", "b1", "binary"), (b"x", "closed", "bounty_closed")],
)
def test_what_cannot_be_submitted_is_one_clear_error(
    scripted: ScriptedSite, gainshare: Command, tmp_path: Path, content: bytes | None, bounty: str, code: str
) -> None:
    if content is not None:
        (tmp_path / "my.diff").write_bytes(content)
    status, out, _ = gainshare("submit", bounty, str(tmp_path / "my.diff"), "--json")
    assert (status, error_of(out)["code"]) == (1, code)


def test_a_submission_does_not_rest_while_a_run_of_it_is_open() -> None:
    confirmed = {**JUDGED, "state": "confirmed"}
    assert is_resting(confirmed)
    again = {"id": "r2", "kind": "recheck", "state": "queued"}
    checked = {**confirmed, "stage": "confirmed: random re-measurement", "runs": [*JUDGED["runs"], again]}
    assert not is_resting(checked)
    assert describe(checked).startswith("confirmed: random re-measurement, recheck run queued")


def test_progress_is_described_in_pairs_not_results() -> None:
    assert describe(QUEUED) == "queued"
    sealed = {**QUEUED, "state": "being_judged", "queue": {"position": 2}}
    assert describe(sealed) == "being judged, 2 ahead of it in the queue" and not is_resting(sealed)
    running = {**sealed, "queue": {"position": None}, "looks": 3}
    assert describe(running) == "being judged, 3 interim checks so far"
    assert describe(JUDGING) == "judging, gate run measuring (3 of 48 pairs)"
    assert describe(JUDGED) == "judged, no_gain: not [bold]faster[/]"
    assert [is_resting(row) for row in (QUEUED, JUDGING, JUDGED)] == [False, False, True]
