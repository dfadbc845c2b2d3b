"""Each room of the stack is wholly protected or wholly open, and what trusted processes import is protected."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.patch.patches import parse_patch
from benchmarks.patch.policy import PolicyViolation, check_patch, load_policy

ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT / "model"
MOVED = ROOT / "docs/reference/moved-modules.md"
PROTECTED = {"serving/metering", "serving/api", "serving/node", "serving/upstream", "smollm2"}
OPEN = {
    "csrc",
    "csrc/attention",
    "csrc/experts",
    "csrc/serving",
    "data",
    "data/arrow",
    "data/batches",
    "data/corpora",
    "distill",
    "growth",
    "hf",
    "hf/config",
    "hf/families",
    "layers",
    "layers/attention",
    "layers/moe",
    "layers/quantisation",
    "parallel",
    "parallel/mesh",
    "parallel/placement",
    "parallel/run",
    "parallel/zero",
    "plan",
    "plan/clusters",
    "sampling",
    "serving/distributed",
    "serving/engine",
    "serving/executors",
    "serving/offload",
    "serving/speculation",
    "training",
    "training/config",
    "training/losses",
    "training/optim",
    "training/report",
    "training/run",
}
JUDGE = ("evidence", "judging", "pairs", "patch", "runner", "sandbox", "statistics")
#: Programs of the web, control, beat and runner processes, each with what it imports before its first request or task.
PROGRAMS = {
    "web": "import gainshare.config.asgi; from django.urls import get_resolver; get_resolver().url_patterns; "
    "import model.serving.node.request_heads",
    "control and beat": "import gainshare.config.celery; gainshare.config.celery.app.loader.import_default_modules()",
    "runner": "import benchmarks.worker",
}


def is_protected(path: str, *, mode: str = "new") -> bool:
    """Whether a patch that adds (or with `mode` "deleted" deletes) the file breaks the policy for being protected."""
    try:
        check_patch(load_policy(), parse_patch(f"diff --git a/{path} b/{path}\n{mode} file mode 100644\n"))
    except PolicyViolation as violation:
        return violation.code == "protected"
    return False


def rooms() -> set[str]:
    """Folders below model/ that hold sources; `serving` itself holds its __init__ alone."""
    sources = (path for path in MODEL.rglob("*") if path.suffix in {".py", ".cpp", ".h"})
    return {str(path.parent.relative_to(MODEL)) for path in sources} - {".", "serving"}


def test_every_room_is_on_one_of_both_lists() -> None:
    assert rooms() == PROTECTED | OPEN
    assert not PROTECTED & OPEN


@pytest.mark.parametrize("room", sorted(PROTECTED))
def test_a_new_file_in_a_protected_room_is_protected(room: str) -> None:
    for name in ("new.py", "deeper/new.py", "native.cpp", "notes.md"):
        assert is_protected(f"model/{room}/{name}"), name
    for instead in (f"model/{room}.py", f"model/{room}.pyi", f"model/{room.upper()}/new.py"):
        assert is_protected(instead), instead


@pytest.mark.parametrize("room", sorted(OPEN))
def test_every_file_of_an_open_room_may_be_patched(room: str) -> None:
    files = [path for path in (MODEL / room).iterdir() if path.suffix in {".py", ".cpp", ".h"}]
    assert files
    for path in (*files, MODEL / room / "new.py"):
        assert not is_protected(str(path.relative_to(ROOT))), path


def test_of_the_stacks_own_files_only_what_trusted_processes_import_is_protected() -> None:
    found = {path.name for path in MODEL.glob("*.py") if is_protected(f"model/{path.name}")}
    assert found == {"__init__.py", "command_errors.py", "home.py", "kernel_ways.py", "spinning.py"}
    assert {path.name for path in (MODEL / "serving").iterdir() if path.is_file()} == {"__init__.py"}
    assert is_protected("model/serving/__init__.py")


def test_where_each_module_moved_is_told() -> None:
    rows = re.findall(
        r"^\| `([\w/]+\.(?:py|h|cpp))` \| `([\w/]+\.(?:py|h|cpp))`( \*protected\*)? \|$",
        MOVED.read_text(),
        re.MULTILINE,
    )
    assert len(rows) > 200
    closed = set()
    for before, now, mark in rows:
        assert (MODEL / now).is_file(), now
        assert before == now or not (MODEL / before).is_file(), before
        if mark:
            assert is_protected(f"model/{now}", mode="deleted"), now
            closed.add(before)
    assert closed == {
        "serving/engine.py",
        "serving/options.py",
        "serving/unsupported.py",
        "serving/upstream_fields.py",
        "spinning.py",
    }


@pytest.mark.slow
@pytest.mark.parametrize("process", PROGRAMS)
def test_what_a_trusted_process_imports_of_the_stack_is_protected(process: str) -> None:
    """Community code that is merged must not run where the database, the broker or the judge is in reach."""
    told = "import json, sys; print(json.dumps([m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'model']))"
    setup = "import os; os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'gainshare.config.settings'); import django; "
    setup = "" if process == "runner" else f"{setup}django.setup(); "
    done = subprocess.run(
        [sys.executable, "-c", f"{setup}{PROGRAMS[process]}; {told}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    files = [Path(file).resolve().relative_to(ROOT) for file in json.loads(done.stdout.splitlines()[-1])]
    assert files or process != "web"
    assert [str(file) for file in files if not is_protected(str(file), mode="deleted")] == []


def test_what_trusted_code_imports_anywhere_is_protected() -> None:
    """Also imports inside of functions, of all code that these processes can reach but the stack itself."""
    wanted = re.compile(r"^\s*(?:from (model(?:\.\w+)*) import (\w+)|import (model(?:\.\w+)*))", re.MULTILINE)
    trusted = ["platform", "bounty", *(f"benchmarks/{room}" for room in JUDGE)]
    free = set()
    for path in (path for folder in trusted for path in (ROOT / folder).rglob("*.py")):
        for package, name, module in wanted.findall(path.read_text()):
            dotted = f"{package}.{name}" if package else module
            file = next(
                candidate
                for stem in (dotted, package or module)
                for candidate in (stem.replace(".", "/") + ".py", stem.replace(".", "/") + "/__init__.py")
                if (ROOT / candidate).is_file()
            )
            if not is_protected(file, mode="deleted"):
                free.add(f"{path.relative_to(ROOT)}: {file}")
    assert free == set()
