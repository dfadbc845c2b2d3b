"""What the test suite needs before Django's settings load; named in pyproject's `addopts`, not an entry point.

pytest-django reads the settings before any conftest.py is imported, so the environment is set here. The database
itself starts when the first test asks for it (`tests/conftest.py`). Values already set in the environment win; but each
worker of pytest-xdist has a database and a home of its own, not those of the process that started it. Compiled kernels
are shared by all homes, and kept in the checkout's own.
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
"""Names the variables that this session set itself, for the workers it starts."""


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        for name in os.environ.pop(OWN, "").split():
            os.environ.pop(name, None)
    given = set(os.environ)
    os.environ.setdefault("GAINSHARE_SECRET_KEY", secrets.token_urlsafe(32))
    os.environ.setdefault(
        "BROKER_URL", "memory://"
    )  # unit tests send to no one; the stack's tests use Valkey
    if "GAINSHARE_HOME" not in os.environ:
        early_config.stash[_home] = tempfile.mkdtemp(prefix="gainshare-home-")
        os.environ["GAINSHARE_HOME"] = early_config.stash[_home]
        (Path(early_config.stash[_home]) / "static").mkdir()  # whitenoise warns where it is missing
    os.environ.setdefault("GAINSHARE_KERNELS", str(ROOT / ".gainshare" / "native"))
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
    """The session's own cluster, started; None when DATABASE_URL named a server of yours."""
    postgres = pytestconfig.stash.get(_postgres, None)
    if postgres is not None:
        postgres.start()
    return postgres
