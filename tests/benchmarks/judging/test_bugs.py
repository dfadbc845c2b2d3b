"""Reproductions in real sandboxes: observed on a tree, checked without one."""

import json
import threading
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.bench import main
from benchmarks.catalogue import UnknownSuite
from benchmarks.evidence.bugs import read_trials
from benchmarks.evidence.signing import generate_key
from benchmarks.evidence.verify import verify_evidence
from benchmarks.judging.bugs import Trials, parse_seen
from benchmarks.judging.cancellation import Cancellation, Cancelled
from benchmarks.judging.job import Job
from benchmarks.judging.reproduction import MAX_REPRODUCTION_BYTES, NotAReproduction, read_reproduction
from benchmarks.pairs.seeds import Seeds
from benchmarks.patch.patches import apply_patch, parse_patch
from benchmarks.patch.policy import check_patch, load_policy
from benchmarks.patch.trees import BlobStore, shipped_tree
from benchmarks.runner.client import RunnerClient
from benchmarks.runner.lease import carry_out
from benchmarks.sandbox import best_level
from benchmarks.suites.bug import bug_suite
from tests.benchmarks.runner.runner_platform import TOKEN, Platform
from tests.http_servers import serving

EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "bugs"
REPRODUCTION = EXAMPLES / "batched_positions.py"
PLANTED = EXAMPLES / "batched_positions_planted.diff"
FIX = EXAMPLES / "batched_positions_fix.diff"

TREE = "def answer():\n    return {}\n"  # of a tree that takes no torch to import
HONEST = """
def observe():
    from model.thing import answer
    return {"answer": answer()}

def check(seen):
    assert seen["answer"] == 42, f"the answer is {seen['answer']}"
"""


@pytest.fixture
def logged() -> list[str]:
    return []


@pytest.fixture
def trees(open_folder: Path) -> dict[str, Path]:
    """Base answers 41, the candidate 42."""
    for side, value in (("base", "41"), ("candidate", "42")):
        write_thing(open_folder / side, TREE.format(value))
    return {side: open_folder / side for side in ("base", "candidate")}


def write_thing(tree: Path, text: str) -> None:
    folder = tree / "model"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "__init__.py").touch()
    (folder / "thing.py").write_text(text)
    for path in (tree, folder, *folder.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)


def trials(
    text: str,
    trees: dict[str, Path],
    log: list[str] | None = None,
    cancellation: Cancellation | None = None,
) -> Trials:
    level, seeds = best_level(), Seeds(bytes(32))
    kept = log if log is not None else []
    return Trials(
        text, trees, level=level, cores=(0,), seeds=seeds, on_log=kept.append, cancellation=cancellation
    )


def outcomes(tried: Trials) -> list[tuple[str, str]]:
    return [(row["step"], row["outcome"]) for row in tried.rows]


@pytest.mark.sandbox
def test_the_check_refuses_what_base_shows_and_takes_what_the_candidate_shows(
    trees: dict[str, Path], logged: list[str]
) -> None:
    tried = trials(HONEST, trees, logged)
    tried.read()
    tried.attempt("base", 0)
    tried.attempt("candidate", 0)
    assert outcomes(tried) == [
        ("read", "readable"),
        ("observe", "answered"),
        ("check", "refused"),
        ("observe", "answered"),
        ("check", "holds"),
    ]
    assert "the answer is 41" in tried.rows[2]["detail"]
    assert any("[check, base, attempt 1]" in text for text in logged)


@pytest.mark.sandbox
def test_cancelling_ends_a_trial_in_the_middle_of_a_step(trees: dict[str, Path]) -> None:
    cancellation = Cancellation()
    tried = trials(HONEST, trees, cancellation=cancellation)
    write_thing(trees["base"], "import time\ndef answer():\n    time.sleep(3600)\n")
    timer = threading.Timer(1.0, cancellation.cancel, ["withdrawn"])
    timer.start()
    with pytest.raises(Cancelled, match="withdrawn"):
        tried.attempt("base", 0)
    timer.join()
    assert tried.rows == []


@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ("raise RuntimeError('overflow')", "raised"),
        ("import os; os.abort()", "crashed"),
        ("import os; os._exit(0)", "crashed"),
        ("raise SystemExit(0)", "raised"),
        ("return {'x': float('nan')}", "malformed"),
        ("return [1]", "malformed"),
        ("return {'x': object()}", "malformed"),
        ("return {'x': 'y' * 300_000}", "malformed"),
    ],
)
def test_what_cannot_be_observed_is_told_apart(body: str, outcome: str, trees: dict[str, Path]) -> None:
    text = f"def observe():\n    {body}\n\ndef check(seen):\n    pass\n"
    tried = trials(text, trees)
    tried.attempt("base", 0)
    assert outcomes(tried) == [("observe", outcome)]


@pytest.mark.sandbox
def test_time_runs_out_for_a_tree_that_hangs(trees: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.judging.bugs.OBSERVE_S", 1.0)
    write_thing(trees["base"], "def answer():\n    while True:\n        pass\n")
    tried = trials(HONEST, trees)
    tried.attempt("base", 0)
    assert outcomes(tried) == [("observe", "timeout")]


@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def observe(:", "SyntaxError"),
        ("def observe():\n    return {}\n", "no function check"),
        (
            "import model.thing\n\ndef observe():\n    return {}\n\ndef check(seen):\n    pass\n",
            "ModuleNotFoundError",
        ),
    ],
)
def test_a_file_is_read_without_a_tree_first(text: str, words: str, trees: dict[str, Path]) -> None:
    tried = trials(text, trees)
    tried.read()
    assert outcomes(tried) == [("read", "broken")] and words in tried.rows[0]["detail"]


@pytest.mark.sandbox
def test_a_check_has_no_tree_and_anything_but_an_assertion_is_its_own_fault(trees: dict[str, Path]) -> None:
    needs_the_tree = HONEST.replace(
        "def check(seen):", "def check(seen):\n    from model.thing import answer\n"
    )
    tried = trials(needs_the_tree, trees)
    tried.attempt("candidate", 0)
    assert outcomes(tried)[-1] == ("check", "broken") and "ModuleNotFoundError" in tried.rows[-1]["detail"]


@pytest.mark.sandbox
@pytest.mark.parametrize("ending", ["raise SystemExit(0)", "raise KeyboardInterrupt", "1 / 0"])
def test_a_check_holds_only_when_it_comes_to_its_end(ending: str, trees: dict[str, Path]) -> None:
    text = f"def observe():\n    return {{}}\n\ndef check(seen):\n    {ending}\n"
    tried = trials(text, trees)
    tried.attempt("base", 0)
    assert outcomes(tried) == [("observe", "answered"), ("check", "broken")]


LYING = """
import os, sys

def answer():
    import json
    for name, module in list(sys.modules.items()):
        if name in ("__main__", "reproduction"):
            module.REFUSED = 0
            module.check = lambda *_: None
    for fd in range(3, 64):
        try:
            os.write(fd, json.dumps({"answer": 41}).encode())
        except OSError:
            pass
    os._exit(0)
"""


@pytest.mark.sandbox
def test_a_tree_that_rewrites_the_check_and_writes_the_answer_itself_is_still_checked_elsewhere(
    trees: dict[str, Path],
) -> None:
    write_thing(trees["candidate"], LYING)
    tried = trials(HONEST, trees)
    tried.attempt("candidate", 0)
    assert outcomes(tried) == [("observe", "answered"), ("check", "refused")]


@pytest.mark.sandbox
def test_what_depends_on_the_order_of_a_set_shows_as_flaky(trees: dict[str, Path]) -> None:
    text = (
        "def observe():\n    return {'first': next(iter({'a', 'b', 'c', 'd', 'e', 'f'}))}\n\n"
        "def check(seen):\n    pass\n"
    )
    tried = trials(text, trees)
    for number in range(3):
        tried.attempt("base", number)
    assert len({row["detail"] for row in tried.rows if row["step"] == "observe"}) > 1


@pytest.mark.sandbox
@pytest.mark.timeout(180)
def test_the_example_reproduces_a_real_bug_of_the_stack_and_its_evidence_verifies(tmp_path: Path) -> None:
    out = tmp_path / "evidence.json"
    arguments = ["--kind", "reproduction", "--reproduction", str(REPRODUCTION), "--base", str(PLANTED)]
    assert main([*arguments, "--out", str(out)]) == 0
    sealed = json.loads(out.read_bytes())
    report = verify_evidence(sealed)
    assert report.ok and report.verdict.kind == "gain" and not report.award_eligible
    problem, found = read_trials(sealed["document"]["trials"])
    assert problem == "" and [len(found[side]) for side in ("base", "candidate")] == [3, 0]
    assert "sequence 1 is off" in report.verdict.reason


@pytest.mark.sandbox
@pytest.mark.timeout(120)
def test_a_runner_fetches_a_reproduction_tries_it_and_posts_its_trials(open_folder: Path) -> None:
    store = BlobStore(open_folder / "platform-blobs")
    tree = shipped_tree(store)
    platform = Platform(store, tree, tree, kind="reproduction")
    text = b"""
def observe():
    from model.presets import PRESETS
    return {"names": sorted(PRESETS)}

def check(seen):
    assert "huge" in seen["names"], "there is no huge preset"
"""
    platform.run |= {"suite": "bug", "preset": "standard", "reproduction": store.put(text)}
    client = RunnerClient(platform.url, TOKEN, timeout_s=5)
    with serving(platform.server), closing(client):
        carry_out(client.lease(platform.run["id"]), client, home=open_folder / "runner", key=generate_key())
    assert platform.failures == []
    document = platform.evidence[0]["document"]
    assert document["verdict"]["kind"] == "gain" and "no huge preset" in document["verdict"]["reason"]
    assert document["suite"]["reproduction"] == platform.run["reproduction"]
    assert document["commitment"] == platform.commitments[0][1]
    assert [row["outcome"] for row in document["trials"]] == ["readable", *["answered", "refused"] * 3]


@pytest.mark.sandbox
@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_examples_fix_passes_and_leaves_every_suite_right(tmp_path: Path) -> None:
    out = tmp_path / "evidence.json"
    arguments = ["--kind", "fix", "--reproduction", str(REPRODUCTION), "--base", str(PLANTED)]
    assert main([*arguments, "--candidate", str(FIX), "--out", str(out)]) == 0
    sealed = json.loads(out.read_bytes())
    report = verify_evidence(sealed)
    assert report.ok and report.verdict.kind == "gain"
    cases = {case["name"] for case in sealed["document"]["suite"]["cases"]}
    assert {pair["case"] for pair in sealed["document"]["pairs"]} == cases
    assert sealed["document"]["checks"]["oracle_checked"] >= len(cases)


def test_the_examples_diffs_apply_and_are_what_anybody_may_send(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs")
    shipped = shipped_tree(store)
    planted = apply_patch(shipped, parse_patch(PLANTED.read_bytes()), store)
    fix = parse_patch(FIX.read_bytes())
    check_patch(load_policy(), fix)
    assert planted.hash != shipped.hash
    assert apply_patch(planted, fix, store).hash == shipped.hash
    assert len(read_reproduction(REPRODUCTION.read_bytes())) < MAX_REPRODUCTION_BYTES


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", "empty"), (b" \n", "empty"), (b"#" * 16_385, "16384"), (b"\xff\xfe", "UTF-8")],
)
def test_files_that_no_trial_could_use_are_refused_at_once(data: bytes, words: str) -> None:
    with pytest.raises(NotAReproduction, match=words):
        read_reproduction(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[1]",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1, "a": 2}',
        b'{"a": 1} {"b": 2}',
        b'{"a": "\xff"}',
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_what_is_seen_is_one_plain_json_object(data: bytes) -> None:
    with pytest.raises(ValueError, match="observe"):
        parse_seen(data)


def test_a_job_about_a_bug_has_its_reproduction_and_no_other_has_one() -> None:
    with pytest.raises(ValueError, match="needs a reproduction"):
        Job("r", "fix", "bug", "standard", "a", "b")
    with pytest.raises(ValueError, match="has no reproduction"):
        Job("r", "gate", "moe_forward", "demo", "a", "b", reproduction="x")
    with pytest.raises(ValueError, match="one tree"):
        Job("r", "reproduction", "bug", "standard", "a", "b", reproduction="x")


def test_a_fix_is_looked_at_by_every_suite_with_exact_answers() -> None:
    suite = bug_suite("standard")
    names = {case.name.partition("/")[0] for case in suite.cases}
    assert {"moe_forward", "moe_backward", "train_step", "prefill", "decode", "decode_batched"} <= names
    assert "quality" not in names and suite.name == "bug"
    with pytest.raises(UnknownSuite, match="standard"):
        bug_suite("demo")


@pytest.mark.parametrize("depth", [10, 900, 940, 960, 980, 990, 1_000, 5_000])
def test_what_is_nested_deeply_is_sent_on_or_refused(depth: int) -> None:
    data = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
    try:
        seen = parse_seen(data)
    except ValueError as error:
        assert depth > 500 and "nested too deeply" in str(error)
    else:
        assert json.dumps({"source": "", "seen": seen})
