"""The attacks: all contained here, most of them successful where nothing confines them."""

import json
import subprocess
import sys

import pytest

from benchmarks.sandbox import Attack, best_level, self_test
from benchmarks.sandbox.__main__ import main
from benchmarks.sandbox.selftest.targets import CANARY_VARIABLE, set_stage
from gainshare.cli.main import main as gainshare
from tests.benchmarks.sandbox.sandbox_levels import level_or_skip

pytestmark = pytest.mark.sandbox

#: Stands for the attacks on a model node, which have tests of their own.
OF_A_NODE = Attack("node.network.tcp_to_host", True, "Connection refused")


@pytest.fixture(scope="module")
def attacks() -> list[Attack]:
    return self_test(level_or_skip("best"))


def test_every_attack_is_contained(attacks: list[Attack]) -> None:
    assert [attack for attack in attacks if not attack.contained] == []


def test_every_kind_of_attack_was_tried(attacks: list[Attack]) -> None:
    assert len(attacks) >= 90
    assert len({attack.name for attack in attacks}) == len(attacks)
    families = {attack.name.partition(".")[0] for attack in attacks}
    assert families == {
        *("environment", "network", "filesystem", "shared_files", "machine", "privileges", "processes"),
        *("host", "neighbour", "results", "resources"),
    }


def test_the_limits_were_really_run_into(attacks: list[Attack]) -> None:
    details = {attack.name: attack.detail for attack in attacks}
    assert "limit hit: memory" in details["resources.memory_bomb"]
    assert not details["resources.fork_bomb"].startswith(("1 ", "2 ", "3 "))
    assert "48 MiB" in details["resources.scratch_bomb"]


def test_the_stage_is_cleared() -> None:
    with set_stage() as stage:
        folder = stage.mount.source.parent
        assert folder.exists()
        assert stage.victim.poll() is None
    assert not folder.exists()
    assert stage.victim.poll() is not None
    answer = subprocess.run(
        [sys.executable, "-c", f"import os; print({CANARY_VARIABLE!r} in os.environ)"], capture_output=True
    )
    assert answer.stdout == b"False\n"


def run_command(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    attacks: list[Attack],
    *arguments: str,
) -> tuple[int, str]:
    """The command with the results of a self-test that was already run."""
    monkeypatch.setattr("benchmarks.sandbox.__main__.self_test", lambda _: attacks)
    monkeypatch.setattr(sys, "argv", ["benchmarks.sandbox", *arguments])
    return main(), capsys.readouterr().out


def test_the_command_prints_one_document(
    attacks: list[Attack], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, output = run_command(monkeypatch, capsys, attacks, "--json")
    document = json.loads(output)
    assert status == 0
    assert document["level"] == best_level()
    assert document["award_eligible"] is True
    assert document["accounting"] in ("cgroup-v1", "cgroup-v2", "polled")
    assert document["attacks"] == [vars(attack) for attack in attacks]


def test_the_command_fails_when_anything_got_through(
    attacks: list[Attack], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, output = run_command(monkeypatch, capsys, [*attacks, Attack("x.y", False, "read the secret")])
    assert status == 1
    assert "ESCAPED" in output
    assert f"{len(attacks)} of {len(attacks) + 1} attacks contained" in output


def run_gainshare(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """`gainshare sandbox-test`: exit status, standard output, standard error."""
    monkeypatch.setattr("benchmarks.confined_node.selftest.attack_node", lambda _: [OF_A_NODE])
    monkeypatch.setattr(sys, "argv", ["gainshare", "sandbox-test", *arguments])
    status = 0
    try:
        gainshare()
    except SystemExit as end:
        status = int(end.code or 0)
    output = capsys.readouterr()
    return status, output.out, output.err


def test_gainshare_lists_attacks_and_levels(
    attacks: list[Attack], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.sandbox.self_test", lambda _: attacks)
    status, output, _ = run_gainshare(monkeypatch, capsys, "--json")
    document = json.loads(output)
    assert status == 0
    assert document["contained"] is True
    assert document["level"] == best_level()
    assert document["accounting"] in ("cgroup-v1", "cgroup-v2", "polled")
    assert document["attacks"] == [vars(attack) for attack in [*attacks, OF_A_NODE]]
    listed = {row["level"]: row for row in document["levels"]}
    assert set(listed) == {"bubblewrap", "bubblewrap-user", "container"}
    assert listed[best_level()] == {"level": best_level(), "available": True, "reason": None}
    assert sum(row["available"] for row in listed.values()) < 3, "no one is root and an ordinary user at once"
    assert all(row["reason"] for row in listed.values() if not row["available"])

    status, output, _ = run_gainshare(monkeypatch, capsys)
    assert status == 0
    assert f"{len(attacks) + 1} of {len(attacks) + 1} attacks contained" in output
    assert "Levels of this machine" in output


def test_gainshare_fails_when_anything_got_through(
    attacks: list[Attack], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "benchmarks.sandbox.self_test", lambda _: [*attacks, Attack("x.y", False, "read the secret")]
    )
    status, output, _ = run_gainshare(monkeypatch, capsys)
    assert status == 1
    assert "read the secret" in output
    assert f"{len(attacks) + 1} of {len(attacks) + 2} attacks contained" in output


@pytest.mark.parametrize(
    ("asked", "code"), [("none", "no_such_level"), ("vm", "no_such_level"), ("other", "no_sandbox")]
)
def test_gainshare_attacks_no_level_that_is_not_there(
    asked: str, code: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if asked == "other":  # the other kind of user's
        asked = "bubblewrap-user" if best_level() == "bubblewrap" else "bubblewrap"
    status, output, _ = run_gainshare(monkeypatch, capsys, "--level", asked, "--json")
    assert status == 1
    assert json.loads(output)["error"]["code"] == code
