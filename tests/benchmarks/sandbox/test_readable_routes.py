"""Every way by which a sample's words leave the judge: what would act on a terminal, page or database is shown instead."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from benchmarks.evidence.canonical import canonical_bytes
from benchmarks.evidence.document import build_document, seal
from benchmarks.evidence.signing import generate_key
from benchmarks.judging import profiling
from benchmarks.judging.bugs import Trials
from benchmarks.pairs.builds.build import build_tree
from benchmarks.pairs.seeds import Seeds
from benchmarks.pairs.side import MAX_DETAIL_CHARACTERS, SideFailed
from benchmarks.sandbox import Limits, best_level, python_runtime, run
from benchmarks.sandbox.readable import readable
from tests.benchmarks.evidence.evidence_maker import make_pairs, make_parts
from tests.benchmarks.pairs.hostile_suite import hostile_suite, run_pairs, script_trees
from tests.command_here import lone_command

pytestmark = [pytest.mark.sandbox, pytest.mark.slow]

HOSTILE = "\x1b]0;owned\x07\r\x00\x9b2J\u202e\u2066\ufeff\u3164\U000e0041"
BYTES = HOSTILE.encode() + b"\xff\xfe"
PRINTS = f"import os; os.write(2, {BYTES!r} + b'\\n'); os._exit(3)"


def assert_shown(text: str) -> None:
    """`text` came from the hostile words, and nothing of them is left but what shows itself."""
    assert "owned" in text
    assert text == readable(text)
    assert "\0" not in text and "\x1b" not in text and "\u202e" not in text and "\r" not in text
    canonical_bytes(text)


def test_a_failure_of_a_side_says_what_can_be_stored() -> None:
    failure = SideFailed("crash", "candidate", "call", HOSTILE + "\ud800")
    assert_shown(failure.detail)
    assert_shown(str(failure))
    assert len(SideFailed("crash", "candidate", "call", HOSTILE * 10_000).detail) <= MAX_DETAIL_CHARACTERS


@pytest.mark.parametrize("steps", [[["raise", HOSTILE]], [["log", 1, BYTES.hex()], ["exit", 3]]])
def test_events_and_the_run_s_log_are_clean(steps: list[list[object]], tmp_path: Path) -> None:
    runner, log = run_pairs(script_trees(tmp_path, call=steps), hostile_suite())
    detail = runner.events[0]["detail"]  # of a process that ended: its last line, if it was read by then
    assert detail == readable(detail)
    assert_shown(log)


def test_what_a_command_prints_is_clean() -> None:
    runtime = python_runtime()
    done = run(
        [*runtime.argv, "-c", PRINTS],
        level=best_level(),
        mounts=runtime.mounts,
        limits=Limits(wall_s=30),
        env=runtime.env,
        slot=0,
        timeout_s=30,
        output_limit_bytes=1000,
    )
    assert_shown(done.stderr_tail)


def test_what_a_compiler_says_is_clean(open_folder: Path) -> None:
    """A compiler repeats what it was given: here, in a diagnostic that the source words itself."""
    csrc = open_folder / "model" / "csrc"
    csrc.mkdir(parents=True)
    (csrc / "x.cpp").write_bytes(b"#error " + BYTES.replace(b"\0", b"").replace(b"\r", b"") + b"\n")
    with pytest.raises(SideFailed) as refusal:
        build_tree("candidate", open_folder, level=best_level(), slot=0)
    assert_shown(refusal.value.detail)


def test_trials_of_a_bug_are_clean() -> None:
    said: list[str] = []
    trials = Trials(
        f"raise ValueError({HOSTILE!r})\n",
        {},
        level=best_level(),
        cores=(0,),
        seeds=Seeds.fresh()[1],
        on_log=said.append,
    )
    trials.read()
    assert_shown(trials.rows[0]["detail"])
    assert_shown("".join(said))


def test_a_profile_s_table_is_clean() -> None:
    assert_shown(profiling._parsed(struct.pack("<Q", len(BYTES)) + BYTES).table)


def test_verification_shows_a_foreign_file_cleanly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The file is anyone's: its words need not have come from a judge."""
    events = [{"kind": "crash", "side": "candidate", "stage": "call", "detail": HOSTILE}]
    sealed = seal(build_document(**make_parts(make_pairs(1.0, 1), events=events)), generate_key())
    file = tmp_path / "evidence.json"
    file.write_text(json.dumps(sealed))
    _, shown, _ = lone_command(monkeypatch, capfd, tmp_path / "home")("verify", str(file))
    assert "owned" in shown
    for letter in set(HOSTILE) - set("]0;owned2J"):
        assert letter not in shown, ascii(letter)
