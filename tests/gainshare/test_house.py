"""Import rules: `platform/` stays a plain folder, and light processes import no heavy packages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "deepspeed", "transformers")
TRIES_HEAVY = (
    "import sys; found = [name for name in {names!r} if name in sys.modules]; "
    "sys.exit(f'imported: {{found}}' if found else 0)"
)


def python(code: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_platform_is_no_package() -> None:
    assert (ROOT / "platform").is_dir()
    assert not (ROOT / "platform" / "__init__.py").exists()


def test_tests_are_no_packages() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize("start", ["import platform", "import gainshare, platform", "import torch, platform"])
def test_import_platform_is_the_standard_library(start: str) -> None:
    done = python(f"{start}; print(platform.__file__); print(platform.python_version())")
    assert done.returncode == 0, done.stderr
    file, version = done.stdout.split()
    assert not Path(file).is_relative_to(ROOT)
    assert version == ".".join(map(str, sys.version_info[:3]))


@pytest.mark.parametrize(
    "start",
    [
        "import gainshare.config.asgi; from django.urls import resolve; resolve('/')",
        "import gainshare.config.celery as c; import django; django.setup(); c.app.loader.import_default_modules()",
        "import gainshare.cli.main",
        "import gainshare.local.supervision.supervisor, gainshare.local.stack",
        "import gainshare.local.supervision.guardian",
        "import benchmarks.sandbox, benchmarks.evidence.verify, benchmarks.patch.policy, benchmarks.patch.patches",
        "import model.config",
    ],
    ids=[
        "web",
        "control worker",
        "command line",
        "supervisor",
        "guardian",
        "torch-free judge",
        "model config",
    ],
)
def test_light_processes_start_without_torch(start: str) -> None:
    done = python(
        f"{start}\n{TRIES_HEAVY.format(names=HEAVY)}", DJANGO_SETTINGS_MODULE="gainshare.config.settings"
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_check_above_would_see_torch() -> None:
    done = python(f"import torch\n{TRIES_HEAVY.format(names=HEAVY)}")
    assert done.returncode == 1
    assert "imported: ['torch']" in done.stderr


@pytest.mark.parametrize("package", ["model", "benchmarks"])
def test_the_stack_and_the_judge_start_without_django(package: str) -> None:
    done = python(
        f"import {package}; import benchmarks.patch.patches, benchmarks.sandbox\n"
        f"{TRIES_HEAVY.format(names=('django', 'rest_framework'))}"
    )
    assert done.returncode == 0, done.stderr


def test_the_command_line_loads_neither_django_nor_the_openai_client() -> None:
    done = python(f"import gainshare.cli.main\n{TRIES_HEAVY.format(names=('django', 'openai'))}")
    assert done.returncode == 0, done.stderr
