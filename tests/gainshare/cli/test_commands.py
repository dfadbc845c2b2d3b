"""The `gainshare` command: help, JSON, exit status and errors of every subcommand; talking to a real site over HTTP."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from gainshare.accounts.models import Role, Scope
from gainshare.accounts.services import create_api_key, create_user
from gainshare.capacity.hosts.tokens import authenticate_host
from gainshare.capacity.models import DeviceClass
from gainshare.cli.output import credits_text
from gainshare.cli.user import models as models_module
from gainshare.ledger.services import fund_treasury, grant_credits
from gainshare.local.secrets import read_secret
from tests.command_here import Command, error_of, lone_command

pytestmark = pytest.mark.slow

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
    "simulate",
]
GROUPS = {
    "keys": ["list", "create", "revoke"],
    "model": ["fetch", "import", "export", "grow", "list"],
    "reversals": ["list", "confirm", "dismiss"],
    "hosts": ["add", "list", "renew", "revoke", "leaves", "stays"],
    "runners": ["list", "show", "drain", "resume", "quarantine", "release", "calibrate"],
    "scale": ["list", "set", "decisions"],
}


@pytest.fixture
def gainshare(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    return lone_command(monkeypatch, capfd, tmp_path / "home")


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


def test_bench_hands_its_options_on_to_the_judge_that_takes_its_place(
    gainshare: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _program, argv: seen.append(argv))
    gainshare("bench", "--candidate", "my.diff", "--json")
    (argv,) = seen
    assert argv[:4] == [sys.executable, "-P", "-m", "benchmarks.bench"]
    assert argv[4:] == [
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
    assert (status, rows) == (0, {"tiny": True, "smollm2-moe": False, "smollm2-moe-small": False})
    assert gainshare("model", "list")[0] == 0


def test_model_list_names_imported_models_with_their_folder(gainshare: Command, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "models" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder.parent / ".mine-half-written").mkdir()
    (folder.parent / ".mine-half-written" / "config.json").write_text("{}")
    _, out, _ = gainshare("model", "list", "--json")
    assert [row["name"] for row in json.loads(out)] == ["tiny", "smollm2-moe", "smollm2-moe-small", "mine"]
    assert json.loads(out)[-1] == {"name": "mine", "is_here": True, "folder": str(folder)}


def test_model_import_and_export_say_what_is_missing(gainshare: Command, tmp_path: Path) -> None:
    status, out, _ = gainshare("model", "import", str(tmp_path), "--name", "mine", "--json")
    assert status == 1
    assert json.loads(out)["error"]["code"] == "conversion_failed"
    assert "config.json is missing" in out
    status, _, err = gainshare("model", "export", "mine", str(tmp_path / "out"))
    assert status == 1
    assert "mine has no model" in err
    assert not (tmp_path / "out").exists()


def test_model_export_passes_its_options_on(gainshare: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(
        "gainshare.cli.user.models.subprocess.run",
        lambda argv, **_: called.append(argv) or subprocess.CompletedProcess(argv, 0),
    )
    assert gainshare("model", "export", "mine", "out", "--family", "llama", "--unshare")[0] == 0
    assert gainshare("model", "export", "mine", "out")[0] == 0
    assert called[0][2:] == ["model.hf", "export", "mine", "out", "--family", "llama", "--unshare"]
    assert called[1][2:] == ["model.hf", "export", "mine", "out"]


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


def test_model_grow_passes_all_on_and_gives_the_programs_status(
    gainshare: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def run(argv: list[str], *, check: bool) -> "subprocess.CompletedProcess[bytes]":
        seen.append(argv)
        return subprocess.CompletedProcess(argv, 2 if "--help" not in argv else 0)

    monkeypatch.setattr(models_module.subprocess, "run", run)
    assert gainshare("model", "grow", "experts", "a", "b", "--factor", "3", "--json")[0] == 2
    assert gainshare("model", "grow", "depth", "--help")[0] == 0
    start = ["-P", "-m", "model.growth"]
    assert [argv[1:] for argv in seen] == [
        [*start, "experts", "a", "b", "--factor", "3", "--json"],
        [*start, "depth", "--help"],
    ]


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


@pytest.mark.django_db(transaction=True)
def test_a_host_is_added_listed_renewed_and_revoked(
    live_server: Any, monkeypatch: pytest.MonkeyPatch, gainshare: Command, tmp_path: Path
) -> None:
    boss = create_user(username="boss", password="a-long-enough-pass", role=Role.MAINTAINER.value)
    _, raw = create_api_key(user=boss, name="all", scopes=sorted(boss.allowed_scopes))
    monkeypatch.setenv("GAINSHARE_URL", live_server.url)
    monkeypatch.setenv("GAINSHARE_KEY", raw)
    DeviceClass.objects.create(name="cpu-small")
    status, out, _ = gainshare(
        "hosts", "add", "spot-1", "--class", "cpu-small", "--address", "10.0.0.7", "--json"
    )
    assert status == 0
    first = json.loads(out)["token"]
    assert authenticate_host(first) is not None
    file = tmp_path / "token"
    status, out, _ = gainshare("hosts", "renew", "spot-1", "--token-file", str(file))
    assert status == 0 and "gsh_" not in out and str(file) in out
    assert file.stat().st_mode & 0o777 == 0o600
    assert authenticate_host(first) is None and authenticate_host(read_secret(file)) is not None
    assert gainshare("hosts", "renew", "spot-1", "--token-file", str(tmp_path / "no/token"))[0] == 1
    assert authenticate_host(read_secret(file)) is not None
    status, out, _ = gainshare("hosts", "leaves", "spot-1", "--in-s", "60", "--json")
    assert json.loads(out)["leaves_at"]
    assert json.loads(gainshare("hosts", "stays", "spot-1", "--json")[1])["leaves_at"] is None
    status, out, _ = gainshare("hosts", "list")
    assert status == 0 and "spot-1" in out and "10.0.0.7" in out
    status, out, _ = gainshare("hosts", "revoke", "spot-1", "--reason", "stolen")
    assert status == 0 and "was revoked at" in out
    assert authenticate_host(read_secret(file)) is None


def test_the_agent_command_is_the_agents_own_program(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gainshare.cli.main", "agent", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("usage: python -m gainshare.capacity.agent")
    assert "--token-file" in done.stdout
