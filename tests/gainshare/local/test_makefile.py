"""The Makefile on machines that lack something, `.ci/run`, and the rule that an unexpected skip fails in CI."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
TARGETS = ("demo", "test", "test-quick", "test-long", "test-newest", "up", "check", "lock", "bench", "clean")
TOOLS = ("sh", "bash", "dirname", "env", "rm", "find", "touch", "mkdir", "echo", "cat", "ls")
Make = Callable[..., "subprocess.CompletedProcess[str]"]

if shutil.which("make") is None:
    pytest.skip("make is not installed: apt-get install make", allow_module_level=True)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Runs make on a copy of the Makefile, with nothing on the PATH but what the test puts there."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in TOOLS:
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    shutil.copy(ROOT / "Makefile", checkout)
    (checkout / "pyproject.toml").touch()
    shutil.copytree(ROOT / "requirements", checkout / "requirements")

    def run(*arguments: str, **programs: str) -> "subprocess.CompletedProcess[str]":
        for name, script in programs.items():
            path = tools / name.replace("gpp", "g++").replace("_", ".")
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return subprocess.run(
            [shutil.which("make") or "make", *arguments],
            cwd=checkout,
            env={"PATH": str(tools), "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


NEW_ENOUGH = 'case "$2" in *version_info*|*ensurepip*) exit 0;; esac; echo "made with $0: $*"'
TOO_OLD = "exit 1"
NO_VENV = 'case "$2" in *version_info*) exit 0;; esac; exit 1'


def test_make_alone_lists_every_target(make: Make) -> None:
    done = make()
    assert done.returncode == 0
    for target in TARGETS:
        assert f"make {target} " in done.stdout


def test_without_a_compiler_it_says_what_to_install(make: Make) -> None:
    done = make("demo", python3=NEW_ENOUGH)
    assert done.returncode != 0
    assert "no C++ compiler" in done.stderr
    assert "apt-get install g++" in done.stderr


def test_with_too_old_a_python_it_says_what_to_install(make: Make) -> None:
    done = make("demo", gpp="exit 0", python3=TOO_OLD)
    assert done.returncode != 0
    assert "no Python 3.11 to 3.13" in done.stderr


def test_without_venv_it_says_what_to_install(make: Make) -> None:
    done = make("test", gpp="exit 0", python3=NO_VENV)
    assert done.returncode != 0
    assert "lacks venv or ensurepip" in done.stderr
    assert "apt-get install python3-venv" in done.stderr


def test_the_first_python_that_is_new_enough_is_taken(make: Make) -> None:
    done = make("-n", "demo", gpp="exit 0", python3=TOO_OLD, python3_12=NEW_ENOUGH)
    assert done.returncode == 0
    done = make(".venv/bin/python", gpp="exit 0", python3=TOO_OLD, python3_12=NEW_ENOUGH)
    assert "python3.12 -m venv .venv" in done.stdout


def test_the_interpreter_can_be_named(make: Make) -> None:
    done = make(".venv/bin/python", "PYTHON=mine", gpp="exit 0", python3=NEW_ENOUGH, mine=NEW_ENOUGH)
    assert "mine -m venv" in done.stdout


def test_when_pip_fails_it_says_what_to_do(make: Make, tmp_path: Path) -> None:
    bin_folder = tmp_path / "checkout" / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "python").write_text("#!/bin/sh\necho no route to host >&2; exit 1\n")
    (bin_folder / "python").chmod(0o755)
    done = make("demo", gpp="exit 0")
    assert done.returncode != 0
    assert "no route to host" in done.stderr
    assert "PIP_ARGS" in done.stderr
    assert not (tmp_path / "checkout" / ".venv" / ".installed").exists()


@pytest.fixture
def pip_calls(tmp_path: Path) -> Callable[[], list[str]]:
    """An environment whose interpreter only notes what it is called with: those calls, without pip's usual flags."""
    bin_folder = tmp_path / "checkout" / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "python").write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\n')
    (bin_folder / "python").chmod(0o755)
    usual = "-m pip install --disable-pip-version-check --quiet "

    def calls() -> list[str]:
        noted = (tmp_path / "calls").read_text().splitlines()
        (tmp_path / "calls").unlink()
        return [line.removeprefix(usual) for line in noted]

    return calls


LOCKED_RUNTIME = [
    "--require-hashes --no-deps -r requirements/build.txt",
    "--require-hashes --no-deps --no-build-isolation -r requirements/runtime.txt",
    "-r requirements/torch.txt",
    "--no-deps --no-build-isolation --editable .",
    "-m pip --disable-pip-version-check check",
]


def test_what_is_locked_is_installed_by_its_hashes_and_once(
    make: Make, pip_calls: Callable[[], list[str]]
) -> None:
    assert make(".venv/.installed-dev", gpp="exit 0").returncode == 0
    runtime, development = LOCKED_RUNTIME, [line.replace("runtime", "development") for line in LOCKED_RUNTIME]
    development.insert(3, "-r requirements/triton.txt")
    assert pip_calls() == [*runtime, "-m model.native build", *development]
    done = make(".venv/.installed")
    assert "nothing to be done" in done.stdout.lower() or "up to date" in done.stdout


def test_torch_alone_comes_from_the_named_index_and_all_take_the_options_for_pip(
    make: Make, pip_calls: Callable[[], list[str]]
) -> None:
    options = ("TORCH_INDEX_URL=https://index.example/cpu", "PIP_ARGS=--find-links wheels --retries 1")
    assert make(".venv/.installed", *options, gpp="exit 0").returncode == 0
    *installs, _check, _build = pip_calls()
    assert [line.removeprefix("--find-links wheels --retries 1 ") for line in installs] == [
        line.replace(
            "-r requirements/torch.txt", "--index-url https://index.example/cpu -r requirements/torch.txt"
        )
        for line in LOCKED_RUNTIME[:-1]
    ]


def test_the_newest_of_everything_is_installed_only_when_asked(
    make: Make, pip_calls: Callable[[], list[str]]
) -> None:
    assert make(".venv/.installed-dev", "INSTALL=newest", gpp="exit 0").returncode == 0
    assert pip_calls() == ["--upgrade --editable .", "-m model.native build", "--upgrade --editable .[dev]"]


def test_another_way_of_installing_is_refused(make: Make, pip_calls: Callable[[], list[str]]) -> None:
    done = make(".venv/.installed", "INSTALL=latest", gpp="exit 0")
    assert done.returncode != 0
    assert "INSTALL is locked or newest, not 'latest'" in done.stderr


def test_a_changed_lock_is_installed_by_the_next_make(
    make: Make, pip_calls: Callable[[], list[str]], tmp_path: Path
) -> None:
    assert make(".venv/.installed", gpp="exit 0").returncode == 0
    pip_calls()
    later = (tmp_path / "checkout" / ".venv" / ".installed").stat().st_mtime + 10
    os.utime(tmp_path / "checkout" / "requirements" / "runtime.txt", (later, later))
    assert make(".venv/.installed", gpp="exit 0").returncode == 0
    assert LOCKED_RUNTIME[1] in pip_calls()


def test_without_kernels_it_warns_and_continues(make: Make, tmp_path: Path) -> None:
    bin_folder = tmp_path / "checkout" / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "python").write_text(
        '#!/bin/sh\ncase "$*" in *native*) echo error: no compiler >&2; exit 1;; esac\n'
    )
    (bin_folder / "python").chmod(0o755)
    done = make(".venv/.installed", gpp="exit 0")
    assert done.returncode == 0
    assert "error: no compiler" in done.stderr
    assert "warning: no compiled kernels" in done.stderr
    assert ".venv/bin/python -m model.native build" in done.stderr
    assert (tmp_path / "checkout" / ".venv" / ".installed").exists()


def test_clean_removes_what_was_made_and_keeps_the_sources(make: Make, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for made in (".venv", ".mypy_cache", "build", "gainshare.egg-info", "model/__pycache__"):
        (checkout / made).mkdir(parents=True)
    (checkout / "model" / "moe.py").touch()
    assert make("clean").returncode == 0
    assert sorted(path.name for path in checkout.iterdir()) == [
        "Makefile",
        "model",
        "pyproject.toml",
        "requirements",
    ]
    assert [path.name for path in (checkout / "model").iterdir()] == ["moe.py"]


def test_clean_stops_a_running_stack_first_and_not_another_home(make: Make, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    command = checkout / ".venv" / "bin" / "gainshare"

    def with_stacks(*homes: str) -> None:
        command.parent.mkdir(parents=True)
        (checkout / ".gainshare" / "native").mkdir(parents=True)
        for home in homes:
            (checkout / home).mkdir(exist_ok=True)
            (checkout / home / "supervisor.lock").touch()
        command.write_text(f'#!/bin/sh\necho "$* $GAINSHARE_HOME" >> {tmp_path}/called\n')
        command.chmod(0o755)

    with_stacks(".gainshare/demo", ".gainshare")
    assert make("clean", "GAINSHARE_HOME=/elsewhere").returncode == 0
    demo, own = (tmp_path / "called").read_text().splitlines()
    assert demo == f"down --delete-data {checkout}/.gainshare/demo"
    assert own == f"down --delete-data {checkout}/.gainshare"
    with_stacks()
    assert make("clean").returncode == 0, "kernels and models alone are no site that could be stopped"
    assert len((tmp_path / "called").read_text().splitlines()) == 2
    assert not (checkout / ".gainshare").exists()
    with_stacks(".gainshare")
    command.write_text("#!/bin/sh\nexit 1\n")
    command.chmod(0o755)
    assert make("clean").returncode != 0
    assert (checkout / ".gainshare").exists(), "what could not be stopped must not be deleted"


def test_ci_run_is_a_strict_script_that_runs_all_three() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "set -euo pipefail" in script
    assert "export CI=true" in script
    assert script.rstrip().endswith("make check\nmake test\nmake demo")
    assert subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=False).returncode == 0


@pytest.mark.parametrize("script", [".ci/newest", "requirements/install", "requirements/lock"])
def test_scripts_that_make_calls_are_strict_and_can_be_run(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    assert "set -euo pipefail" in (ROOT / script).read_text()
    assert subprocess.run(["bash", "-n", str(ROOT / script)], check=False).returncode == 0


def test_the_newest_is_tried_with_debians_python_pips_own_index_and_a_list_of_what_came(
    tmp_path: Path,
) -> None:
    """The script in a clone of a repository whose Makefile only notes how it is called."""
    source = tmp_path / "source"
    (source / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "newest", source / ".ci" / "newest")
    calls = tmp_path / "calls"
    noted = f'\t@echo "$@ $(PYTHON) $(INSTALL) $$PIP_CONFIG_FILE $${{PIP_FIND_LINKS:-none}}" >> {calls}\n'
    python = "\t@mkdir -p .venv/bin && printf '#!/bin/sh\\necho \"python $$*\"\\n' > .venv/bin/python && chmod +x .venv/bin/python\n"
    (source / "Makefile").write_text(f".venv/.installed-dev:\n{python}{noted}test:\n{noted}.PHONY: test\n")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t.invalid", "-C", str(source)]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *words], check=True)
    env = {**os.environ, "PIP_FIND_LINKS": "/mine", "PIP_CONFIG_FILE": "/mine.conf", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        ["bash", str(source / ".ci" / "newest")], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert calls.read_text().splitlines() == [
        ".venv/.installed-dev /usr/bin/python3 newest /dev/null none",
        "test  newest /dev/null none",
    ]
    assert done.stdout.splitlines() == ["python --version", "python -m pip freeze --exclude-editable"]
    assert list(tmp_path.glob("tmp.*")) == [], "the clone is removed"


SKIPS = {
    "test": "import pytest\ndef test_it():\n    pytest.skip({reason!r})\n",
    "mark": "import pytest\n@pytest.mark.skip(reason={reason!r})\ndef test_it():\n    pass\n",
    "fixture": "import pytest\n@pytest.fixture\ndef gpu():\n    pytest.skip({reason!r})\ndef test_it(gpu):\n    pass\n",
    "module": "import pytest\npytest.skip({reason!r}, allow_module_level=True)\ndef test_it():\n    pass\n",
}


def pytest_on(code: str, folder: Path, ci: str) -> "subprocess.CompletedProcess[str]":
    (folder / "test_skips.py").write_text(code)
    argv = [sys.executable, "-m", "pytest", "-p", "no:django", "-p", "tests.conftest", "-c", os.devnull]
    return subprocess.run(
        [*argv, "--rootdir", str(folder), str(folder / "test_skips.py")],
        cwd=ROOT,
        env={**os.environ, "CI": ci, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("where", SKIPS)
def test_an_unexpected_skip_fails_in_ci_only(where: str, tmp_path: Path) -> None:
    code = SKIPS[where].format(reason="no Chromium here")
    in_ci = pytest_on(code, tmp_path, "true")
    assert in_ci.returncode in (1, 2), in_ci.stdout
    assert "unexpected skip in CI" in in_ci.stdout
    assert "no Chromium here" in in_ci.stdout
    at_home = pytest_on(code, tmp_path, "false")
    assert at_home.returncode in (0, 5), at_home.stdout
    assert "1 skipped" in at_home.stdout


@pytest.mark.parametrize("where", SKIPS)
def test_an_expected_skip_passes_in_ci(where: str, tmp_path: Path) -> None:
    done = pytest_on(SKIPS[where].format(reason="expected: no CUDA"), tmp_path, "true")
    assert done.returncode in (0, 5), done.stdout
    assert "1 skipped" in done.stdout
