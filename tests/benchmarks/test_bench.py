"""`python -m benchmarks.bench` and `python -m benchmarks.aa`: the judge from the command line."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import aa, bench
from benchmarks.evidence.verify import verify_evidence
from benchmarks.patch.patches import PatchError
from benchmarks.patch.trees import BlobStore, Tree, TreeEntry, shipped_tree, write_tree
from benchmarks.sandbox.accounting.placement import sweep, usable_hierarchies

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def plain(open_folder: Path) -> Path:
    """A folder with the shipped stack's Python: nothing in it has to be compiled first."""
    store = BlobStore(open_folder / "blobs")
    entries = tuple(entry for entry in shipped_tree(store).entries if "/csrc/" not in entry.path)
    write_tree(Tree(entries), store, open_folder / "plain")
    return open_folder / "plain"


@pytest.fixture
def broken_diff(open_folder: Path) -> Path:
    """A patch that parses and builds, and cannot be imported: judged within one pair."""
    store = BlobStore(open_folder / "blobs")
    entry = shipped_tree(store).get("model/layers/__init__.py")
    assert entry is not None
    lines = store.get(entry.blob).decode().splitlines()
    context = "".join(f" {line}\n" for line in lines)
    path = open_folder / "broken.diff"
    path.write_text(
        "--- a/model/layers/__init__.py\n+++ b/model/layers/__init__.py\n"
        f"@@ -1,{len(lines)} +1,{len(lines) + 1} @@\n{context}+import no_such_module\n"
    )
    return path


def run_bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.bench", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.sandbox
def test_a_diff_is_judged_and_the_evidence_written_and_never_award_eligible(
    broken_diff: Path, plain: Path, open_folder: Path
) -> None:
    out = open_folder / "evidence.json"
    trees = ("--base", str(plain), "--candidate", str(broken_diff))
    done = run_bench("--preset", "tiny", *trees, "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    sealed = json.loads(done.stdout)
    assert sealed == json.loads(out.read_text())
    report = verify_evidence(sealed)
    assert report.ok and not report.award_eligible
    assert sealed["document"]["run"]["nonce"] == "local"
    assert report.verdict.kind == "build_failed" and "no_such_module" in report.verdict.reason
    assert "no_such_module" in done.stderr  # the sample's own words, on the way


@pytest.mark.sandbox
def test_a_folder_is_judged_and_summarised_for_people(plain: Path, open_folder: Path) -> None:
    shutil.copytree(plain, open_folder / "mine")
    moe = open_folder / "mine" / "model" / "layers" / "moe" / "layer.py"
    moe.chmod(0o644)
    moe.write_text("raise RuntimeError('mine')\n")
    done = run_bench("--preset", "tiny", "--base", str(plain), "--candidate", str(open_folder / "mine"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("build_failed: ") and "not award-eligible" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--candidate", "/nowhere/at/all"), "No such file"),
        (("--candidate", "shipped", "--preset", "gigantic"), "gigantic"),
        (("--candidate", "shipped", "--suite", "nothing"), "nothing"),
        (("--candidate", "shipped", "--base", "/etc"), "model"),
        (("--candidate", "/dev/zero"), "more than 1048576"),
        (("--candidate", "shipped", "--out", "/"), "this is a folder"),
        ((), "--kind gate needs a --candidate"),
        (("--kind", "aa", "--candidate", "shipped"), "--kind aa is about one tree"),
        (("--kind", "fix", "--candidate", "shipped"), "--kind fix needs --reproduction"),
        (("--candidate", "shipped", "--reproduction", "bug.py"), "tries no reproduction"),
        (("--kind", "guard", "--candidate", "shipped", "--looks", "1"), "has no looks"),
        (("--profile", "there", "--json"), "leave out --out and --json"),
    ],
)
def test_what_cannot_be_measured_ends_with_2_and_a_reason(arguments: tuple[str, ...], words: str) -> None:
    done = run_bench(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    if "--json" in arguments:
        assert words in json.loads(done.stdout)["error"]["message"]
    else:
        assert done.stdout == ""


@pytest.mark.sandbox
def test_a_profile_gives_a_table_and_a_chrome_trace_of_both_trees(
    broken_diff: Path, plain: Path, open_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = open_folder / "profile"
    asked = ["--preset", "tiny", "--base", str(plain), "--profile", str(folder)]
    assert bench.main(asked) == 0
    assert "aten::mm" in capsys.readouterr().out
    trace = json.loads((folder / "base.trace.json").read_text())
    assert any(event.get("name") == "call" for event in trace["traceEvents"])
    assert bench.main([*asked, "--candidate", str(broken_diff)]) == 2
    assert "no_such_module" in capsys.readouterr().err


def test_what_the_platform_would_refuse_is_said_before_it_is_measured(open_folder: Path) -> None:
    store = BlobStore(open_folder / "blobs")
    base = shipped_tree(store)

    def with_file(path: str, mode: int = 0o644) -> Tree:
        entries = {entry.path: entry for entry in base.entries}
        entries[path] = TreeEntry(path, mode, store.put(b"x = 1\n"))
        return Tree(tuple(sorted(entries.values())))

    assert bench.refusal(base, with_file("model/more.py"), store) == ""
    assert bench.refusal(base, with_file("model/serving/metering/usage.py"), store).startswith("protected: ")
    assert bench.refusal(base, with_file("model/more.bin"), store).startswith("file_type: ")
    assert bench.refusal(base, with_file("model/layers/moe/layer.py", 0o755), store).startswith(
        "mode_change: "
    )
    assert bench.refusal(base, base, store).startswith("empty: ")


def test_evidence_that_cannot_be_written_is_no_traceback(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As when the disk fills up while it is measured: what was measured is still printed."""
    out = open_folder / "evidence.json"

    def measured(**_: object) -> dict[str, Any]:
        out.mkdir()
        return {"document": {}}

    monkeypatch.setattr(bench, "measure", measured)
    assert bench.main(["--kind", "aa", "--json", "--out", str(out)]) == 2
    said = capsys.readouterr()
    assert said.out == '{"document": {}}\n' and "the evidence could not be written" in said.err


def test_a_diff_that_does_not_apply_is_refused(open_folder: Path) -> None:
    store = BlobStore(open_folder / "blobs")
    wrong = open_folder / "wrong.diff"
    wrong.write_text(
        "--- a/model/layers/moe/layer.py\n+++ b/model/layers/moe/layer.py\n@@ -1,1 +1,1 @@\n-not there\n+at all\n"
    )
    with pytest.raises(PatchError):
        bench.load_tree(str(wrong), shipped_tree(store), store)


@pytest.mark.sandbox
@pytest.mark.measures
def test_a_tree_against_itself_gives_the_noise_of_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert aa.main(["--preset", "tiny", "--quick", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    rows: dict[str, dict[str, Any]] = {row["name"]: row for row in report["rows"]}
    assert report["command"] == "python -m benchmarks.aa --preset tiny --quick"
    assert rows["noise per pair"]["value"] > 0
    assert rows["evidence verifies"]["value"] is True
    assert rows["verdict of base against itself"]["value"] != "gain"
    assert 0 < rows["transport, share of a call"]["value"] < 100
    assert rows["time per pair"]["value"] > 0


def descendants(ancestor: int) -> dict[int, str]:
    """Live processes below `ancestor`, each with its start time: a number may be given again."""
    parents: dict[int, tuple[int, str]] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and (fields := stat_fields(int(path.name))) is not None:
            parents[int(path.name)] = (int(fields[1]), fields[19])
    found: dict[int, str] = {}
    for pid, (_, started) in parents.items():
        above = pid
        while above in parents and above != ancestor:
            above = parents[above][0]
        if above == ancestor and pid != ancestor:
            found[pid] = started
    return found


def stat_fields(pid: int) -> list[str] | None:
    """/proc/PID/stat from the state on; None for what has ended, zombies too."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields


@pytest.mark.sandbox
def test_no_sample_survives_a_judge_that_was_killed(plain: Path, open_folder: Path) -> None:
    """kill -9 in the middle of measuring. What stood frozen then ends with the sweep that every judge begins with."""
    argv = [sys.executable, "-m", "benchmarks.bench", "--preset", "tiny", "--kind", "confirmation"]
    judge = subprocess.Popen(
        [*argv, "--base", str(plain), "--candidate", str(plain)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(open_folder)},  # another device lock
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert judge.stderr is not None
    samples: dict[int, str] = {}
    try:
        assert any("1 pairs done" in line for line in judge.stderr), "the judge ended by itself"
        deadline = time.monotonic() + 30
        while len(samples) < 4 and time.monotonic() < deadline:
            samples = descendants(judge.pid)
        time.sleep(0.5)  # somewhere within import or calls
        samples |= descendants(judge.pid)
    finally:
        os.kill(judge.pid, signal.SIGKILL)
        judge.wait()
        judge.stderr.close()
    assert len(samples) >= 4
    hierarchies = usable_hierarchies()
    sweep({*hierarchies.v1.values(), *([hierarchies.v2] if hierarchies.v2 else [])})
    deadline = time.monotonic() + 10
    while alive := [
        pid for pid, started in samples.items() if (fields := stat_fields(pid)) and fields[19] == started
    ]:
        assert time.monotonic() < deadline, f"still running: {alive}"
        time.sleep(0.05)
