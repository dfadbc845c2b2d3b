"""Five tasks of a newcomer: each is a small diff that applies to this tree and passes its tests."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.patch.patches import parse_patch
from tests.needs import needs_git

ROOT = Path(__file__).parents[2]
TASKS = ROOT / "examples/tasks"
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build")
KEPT = (
    "PATH",
    "HOME",
    "TMPDIR",
    "LANG",
    "OMP_NUM_THREADS",
)  # of the environment: the copy has a database of its own
# Task -> the most files that it may touch, and the tests that show it.
ALLOWED: dict[str, tuple[int, tuple[str, ...]]] = {
    "new_suite": (5, ("tests/benchmarks/suites/test_moe_one_token.py", "tests/benchmarks/test_catalogue.py")),
    "output_price": (1, ("tests/gainshare/local/test_bootstrap.py",)),
    "verdict_words": (2, ("tests/benchmarks/evidence/test_decision.py",)),
    "awards_page": (4, ("tests/bounty/pages/test_awards.py",)),
    "schedule": (3, ("tests/model/training/optim/test_schedule.py",)),
}


def files_of(task: str) -> list[str]:
    return [file.path for file in parse_patch((TASKS / f"{task}.diff").read_text()).files]


def test_the_folder_has_these_five_tasks_and_its_readme_counts_their_files() -> None:
    assert {path.stem for path in TASKS.glob("*.diff")} == set(ALLOWED)
    told = dict(re.findall(r"\((\w+)\.diff\) \| (\d+) \|", (TASKS / "README.md").read_text()))
    assert told == {task: str(len(files_of(task))) for task in ALLOWED}


@pytest.mark.parametrize("task", ALLOWED)
def test_a_task_touches_few_files(task: str) -> None:
    assert 0 < len(files_of(task)) <= ALLOWED[task][0]


@needs_git
@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_tasks_apply_and_their_tests_pass(tmp_path: Path) -> None:
    copy = tmp_path / "tree"
    shutil.copytree(ROOT, copy, ignore=NOT_COPIED)
    for task in ALLOWED:  # each against the tree as it is, then all together
        subprocess.run(["git", "apply", "--check", TASKS / f"{task}.diff"], cwd=copy, check=True)
    for task in ALLOWED:
        subprocess.run(["git", "apply", TASKS / f"{task}.diff"], cwd=copy, check=True)
    tests = [test for _, tests in ALLOWED.values() for test in tests]
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    environment["PYTHONPATH"] = f"{copy}:{copy / 'platform'}"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    source = (copy / "platform/gainshare/local/management/commands/bootstrap_local.py").read_text()
    assert '"output": 12_000_000' in source
