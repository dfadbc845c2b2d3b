"""Pytest plugin that sets the environment for Django's settings; named in pyproject's `addopts`.

pytest-django reads the settings before any conftest.py is imported, so the environment is set here. The
database starts when the first test needs it (`tests/conftest.py`). Existing environment variables take
precedence, but each pytest-xdist worker has its own database and home. Compiled kernels and schemas are shared
by all homes and stored in the checkout's home.
"""

from benchmarks import blas as _blas  # noqa: F401, I001 - before numpy is imported

import os
import secrets
import shutil
import tempfile
from pathlib import Path

import pytest

from gainshare.local.paths import ROOT
from gainshare.local.throwaway import ThrowawayPostgres

_postgres = pytest.StashKey[ThrowawayPostgres]()
_home = pytest.StashKey[str]()

OWN = "GAINSHARE_TEST_OWN"
"""Environment variable with the names that this session set, for its workers."""


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        for name in os.environ.pop(OWN, "").split():
            os.environ.pop(name, None)
    given = set(os.environ)
    os.environ.setdefault("GAINSHARE_SECRET_KEY", secrets.token_urlsafe(32))
    os.environ.setdefault(
        "BROKER_URL", "memory://"
    )  # unit tests need no broker; the stack's tests use Valkey
    if "GAINSHARE_HOME" not in os.environ:
        early_config.stash[_home] = tempfile.mkdtemp(prefix="gainshare-home-")
        os.environ["GAINSHARE_HOME"] = early_config.stash[_home]
        (Path(early_config.stash[_home]) / "static").mkdir()  # whitenoise warns if it is missing
    os.environ.setdefault("GAINSHARE_KERNELS", str(ROOT / ".gainshare" / "native"))
    os.environ.setdefault("GAINSHARE_SCHEMAS", str(ROOT / ".gainshare" / "schemas"))
    if "DATABASE_URL" not in os.environ:
        postgres = early_config.stash[_postgres] = ThrowawayPostgres()
        os.environ["DATABASE_URL"] = postgres.url
    os.environ[OWN] = " ".join({"GAINSHARE_HOME", "DATABASE_URL"} - given)


def pytest_unconfigure(config: pytest.Config) -> None:
    if (postgres := config.stash.get(_postgres, None)) is not None:
        postgres.remove()
    if (home := config.stash.get(_home, None)) is not None:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def throwaway_postgres(pytestconfig: pytest.Config) -> ThrowawayPostgres | None:
    """The session's own cluster, started; None if DATABASE_URL was given."""
    postgres = pytestconfig.stash.get(_postgres, None)
    if postgres is not None:
        postgres.start()
    return postgres
