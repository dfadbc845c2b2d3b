"""The `gainshare` command: help, JSON, exit status and errors of every subcommand; talking to a real site over HTTP."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from gainshare.accounts.models import Role, Scope
from gainshare.accounts.services import create_api_key, create_user
from gainshare.cli import bench as bench_module
from gainshare.cli import models as models_module
from gainshare.cli.main import main
from gainshare.cli.output import credits_text
from gainshare.cli.submission import describe, is_resting
from gainshare.ledger.services import fund_treasury, grant_credits

COMMANDS = [
    "up",
    "down",
    "demo",
    "audit",
    "bench",
    "submit",
    "reproduce",
    "dispute",
    "disputes",
    "status",
    "credits",
    "chat",
    "verify",
    "stop",
    "sandbox-test",
]
GROUPS = {
    "keys": ["list", "create", "revoke"],
    "model": ["fetch", "import", "export", "list"],
    "runners": ["list", "show", "drain", "resume", "quarantine", "release", "calibrate"],
}
Result = tuple[int, str, str]
Command = Callable[..., Result]


@pytest.fixture
def gainshare(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Runs the command in this process; returns exit status, standard output and standard error."""
    monkeypatch.setenv("GAINSHARE_HOME", str(tmp_path / "home"))
    for name in ("GAINSHARE_URL", "GAINSHARE_KEY", "GAINSHARE_PORT"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["gainshare", *arguments])
        status = 0
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = capfd.readouterr()
        return status, out, err

    return run


def error_of(output: str) -> dict[str, str]:
    error: dict[str, str] = json.loads(output)["error"]
    return error


@pytest.mark.parametrize(
    "command", [*COMMANDS, *(f"{group} {name}" for group, names in GROUPS.items() for name in names)]
)
def test_every_command_has_help_and_json(gainshare: Command, command: str) -> None:
    status, out, _ = gainshare(*command.split(), "--help")
    assert status == 0
    assert "Usage:" in out
    assert "--json" in out


def test_the_list_of_commands_is_complete(gainshare: Command) -> None:
    status, out, _ = gainshare("--help")
    assert status == 0
    for name in [*COMMANDS, *GROUPS]:
        assert f" {name} " in out


@pytest.mark.parametrize(
    "arguments", [["fly"], ["submit"], ["up", "--port", "0"], ["status", "--no-such-option"]]
)
def test_wrong_usage_is_exit_status_2(gainshare: Command, arguments: list[str]) -> None:
    status, out, err = gainshare(*arguments)
    assert status == 2
    assert out == ""
    assert err != ""


@pytest.mark.parametrize(
    "arguments", [["credits"], ["keys", "list"], ["submit", "b", "-"], ["chat", "hi"], ["status", "x"]]
)
def test_without_a_site_a_command_says_how_to_name_one(gainshare: Command, arguments: list[str]) -> None:
    status, out, err = gainshare(*arguments)
    assert (status, out) == (1, "")
    assert "GAINSHARE_URL" in err
    assert len(err.strip().splitlines()) == 1
    status, out, _ = gainshare(*arguments, "--json")
    assert status == 1
    assert error_of(out)["code"] == "no_site"


def test_an_address_without_a_key_asks_for_the_key(gainshare: Command) -> None:
    status, out, _ = gainshare("credits", "--url", "http://127.0.0.1:9", "--json")
    assert (status, error_of(out)["code"]) == (1, "no_site")
    assert "--key" in error_of(out)["message"]


@pytest.mark.parametrize(
    ("url", "code"),
    [("http://127.0.0.1:9", "unreachable"), ("nonsense", "unreachable"), ("http://host:port", "bad_url")],
)
def test_a_site_that_is_not_there_is_one_clear_line(gainshare: Command, url: str, code: str) -> None:
    status, out, _ = gainshare("credits", "--url", url, "--key", "gs_a_b", "--json")
    assert (status, error_of(out)["code"]) == (1, code)
    assert "gs_a_b" not in out


@pytest.mark.parametrize("arguments", [["status"], ["down"], ["audit"]])
def test_without_a_stack_local_commands_say_how_to_start_one(
    gainshare: Command, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    status, out, err = gainshare(*arguments)
    assert (status, out) == (1, "")
    assert "gainshare up" in err
    status, out, _ = gainshare(*arguments, "--json")
    assert (status, error_of(out)["code"]) == (1, "not_running")


def test_up_with_json_needs_detach(gainshare: Command) -> None:
    status, out, _ = gainshare("up", "--json")
    assert (status, error_of(out)["code"]) == (2, "usage")


# -- Against the site ---------------------------------------------------------------------------------


@pytest.fixture
def person(
    transactional_db: None, live_server: Any, monkeypatch: pytest.MonkeyPatch, gainshare: Command
) -> str:
    """A contributor with credits whose key the environment names. Returns the key."""
    boss = create_user(username="boss", password="a-long-enough-pass", role=Role.MAINTAINER.value)
    user = create_user(username="grace", password="a-long-enough-pass")
    fund_treasury(transfer_id=uuid4(), amount_microcredits=9_000_000, memo="", actor=boss)
    grant_credits(
        transfer_id=uuid4(), user=user, amount_microcredits=1_250_000, source="starter", memo="hello"
    )
    _, raw = create_api_key(user=user, name="first", scopes=[Scope.READ.value, Scope.SUBMIT.value])
    monkeypatch.setenv("GAINSHARE_URL", live_server.url)
    monkeypatch.setenv("GAINSHARE_KEY", raw)
    return raw


def test_credits_shows_balance_lots_and_transfers(person: str, gainshare: Command) -> None:
    status, out, _ = gainshare("credits")
    assert status == 0
    assert "1.25 available" in out
    assert "starter" in out
    assert "hello" in out
    status, out, _ = gainshare("credits", "--json")
    assert json.loads(out)["balance"]["available"] == 1_250_000


def test_a_key_is_made_shown_once_used_and_revoked(person: str, gainshare: Command) -> None:
    status, out, err = gainshare("keys", "create", "laptop", "--scope", "read", "--expires", "2099-01-31")
    assert status == 0
    raw = out.strip()
    assert raw.startswith("gs_")
    assert "cannot be shown again" in err
    prefix = raw.split("_")[1]

    status, out, _ = gainshare("keys", "list", "--json")
    assert raw not in out
    rows = {row["prefix"]: row for row in json.loads(out)}
    assert rows[prefix]["scopes"] == ["read"]
    assert rows[prefix]["expires_at"].startswith("2099-01-31T00:00:00")

    assert gainshare("credits", "--key", raw)[0] == 0
    status, out, _ = gainshare("keys", "revoke", prefix, "--json")
    assert (status, json.loads(out)) == (0, {"revoked": prefix})
    status, out, _ = gainshare("credits", "--key", raw, "--json")
    assert status == 1
    assert raw not in out


def test_keys_list_for_people_names_each_key(person: str, gainshare: Command) -> None:
    status, out, _ = gainshare("keys", "list")
    assert status == 0
    assert "first" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["keys", "create", "x", "--scope", "maintain"], "scope"),
        (["keys", "create", "x", "--scope", "fly"], "fly"),
        (["keys", "create", "x", "--scope", "read", "--expires", "tomorrow"], "2027-01-31"),
        (["keys", "revoke", "nothere"], "no such key"),
        (["credits", "--key", "gs_000000000000_0"], "API key"),
    ],
)
def test_what_the_site_refuses_is_said_in_its_words(
    person: str, gainshare: Command, arguments: list[str], words: str
) -> None:
    status, out, err = gainshare(*arguments)
    assert status in (1, 2)
    assert out == ""
    assert words in err
    assert person not in err
    status, out, _ = gainshare(*arguments, "--json")
    assert words in error_of(out)["message"]


@pytest.mark.django_db(transaction=True)
def test_audit_prints_every_invariant(gainshare: Command) -> None:
    status, out, _ = gainshare("audit", "--json")
    document = json.loads(out)
    assert status == 0
    assert document["holds"] is True
    assert len(document["invariants"]) >= 10
    status, out, _ = gainshare("audit")
    assert status == 0
    assert "invariants hold" in out


# -- Against a scripted site --------------------------------------------------------------------------


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
    thread = threading.Thread(target=site.serve_forever)
    thread.start()
    monkeypatch.setenv("GAINSHARE_URL", f"http://127.0.0.1:{site.server_port}/")
    monkeypatch.setenv("GAINSHARE_KEY", "gs_p_s")
    yield site
    site.shutdown()
    thread.join()
    site.server_close()


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
    assert describe(JUDGING) == "judging, gate run measuring (3 of at most 48 pairs)"
    assert describe(JUDGED) == "judged, no_gain: not [bold]faster[/]"
    assert [is_resting(row) for row in (QUEUED, JUDGING, JUDGED)] == [False, False, True]


@pytest.mark.parametrize(
    ("microcredits", "text"),
    [
        (0, "0"),
        (1, "0.000001"),
        (1_500_000, "1.5"),
        (2_000_000, "2"),
        (-250_000, "-0.25"),
        (10**15, "1000000000"),
    ],
)
def test_credits_are_written_exactly(microcredits: int, text: str) -> None:
    assert credits_text(microcredits) == text


# -- Programs that commands start ---------------------------------------------------------------------


def test_bench_hands_its_options_on_and_keeps_the_exit_status(
    gainshare: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def run(argv: list[str], *, check: bool) -> "subprocess.CompletedProcess[bytes]":
        seen.append(argv)
        return subprocess.CompletedProcess(argv, 3)

    monkeypatch.setattr(bench_module.subprocess, "run", run)
    assert gainshare("bench", "--candidate", "my.diff", "--json")[0] == 1
    (argv,) = seen
    assert argv[:3] == [sys.executable, "-m", "benchmarks.bench"]
    assert argv[3:] == [
        *("--suite", "moe_forward"),
        *("--candidate", "my.diff"),
        *("--kind", "gate"),
        "--json",
    ]


def test_bench_on_what_is_not_there_is_one_clear_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gainshare.cli.main", "bench", "--candidate", "no-such.diff"],
        capture_output=True,
        text=True,
        env=os.environ,
        check=False,
    )
    assert done.returncode in (1, 2)
    assert "no-such.diff" in done.stderr
    assert "Traceback" not in done.stderr


def test_model_list_says_what_is_here(gainshare: Command, tmp_path: Path) -> None:
    status, out, _ = gainshare("model", "list", "--json")
    rows = {row["name"]: row["is_here"] for row in json.loads(out)}
    assert (status, rows) == (0, {"tiny": True, "smollm2-moe": False})
    assert gainshare("model", "list")[0] == 0


def test_model_list_names_imported_models_with_their_folder(gainshare: Command, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "models" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder.parent / ".mine-half-written").mkdir()
    (folder.parent / ".mine-half-written" / "config.json").write_text("{}")
    _, out, _ = gainshare("model", "list", "--json")
    assert [row["name"] for row in json.loads(out)] == ["tiny", "smollm2-moe", "mine"]
    assert json.loads(out)[-1] == {"name": "mine", "is_here": True, "folder": str(folder)}


def test_model_import_and_export_say_what_is_missing(gainshare: Command, tmp_path: Path) -> None:
    status, out, _ = gainshare("model", "import", str(tmp_path), "--name", "mine", "--json")
    assert status == 1
    assert json.loads(out)["error"]["code"] == "conversion_failed"
    assert "config.json is missing" in out
    status, _, err = gainshare("model", "export", "mine", str(tmp_path / "out"))
    assert status == 1
    assert "mine holds no model" in err
    assert not (tmp_path / "out").exists()


def test_model_import_takes_plain_names_only(gainshare: Command, tmp_path: Path) -> None:
    for name in ("../mine", ".mine", ""):
        status, out, _ = gainshare("model", "import", str(tmp_path), "--name", name, "--json")
        assert status == 2
        assert json.loads(out)["error"]["code"] == "usage"


def test_model_fetch_refuses_an_unknown_name(gainshare: Command) -> None:
    status, out, _ = gainshare("model", "fetch", "gpt-9", "--json")
    assert (status, error_of(out)["code"]) == (1, "no_model")


def test_model_fetch_reports_the_programs_failure(
    gainshare: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def run(argv: list[str], *, check: bool) -> "subprocess.CompletedProcess[bytes]":
        seen.append(argv)
        return subprocess.CompletedProcess(argv, 1)

    monkeypatch.setattr(models_module.subprocess, "run", run)
    assert gainshare("model", "fetch", "smollm2")[0] == 1
    assert seen[0][1:4] == ["-m", "model.smollm2", "fetch"]


@pytest.mark.parametrize(
    ("content", "code"), [(None, "unreadable"), ("not json", "malformed"), ("[]", "malformed")]
)
def test_verify_refuses_what_is_no_evidence(
    gainshare: Command, tmp_path: Path, content: str | None, code: str
) -> None:
    if content is not None:
        (tmp_path / "e.json").write_text(content)
    status, out, _ = gainshare("verify", str(tmp_path / "e.json"), "--json")
    assert (status, error_of(out)["code"]) == (1, code)


def test_verify_shows_which_check_fails(gainshare: Command, tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text(json.dumps({"document": {}, "digest": "sha256:00", "signature": {}}))
    status, out, _ = gainshare("verify", str(tmp_path / "e.json"), "--json")
    assert status == 1
    assert json.loads(out)["ok"] is False
    assert any(not check["holds"] for check in json.loads(out)["checks"])
