"""Pytest plugin that sets the environment for Django's settings; named in pyproject's `addopts`.

pytest-django reads the settings before any conftest.py is imported, so the environment is set here. The
database starts when the first test needs it (`tests/conftest.py`). Existing environment variables take
precedence, but each pytest-xdist worker has its own database and home. Compiled kernels and schemas are shared
by all homes and stored in the checkout's home. Temporary files are in memory where there is room, unless TMPDIR says
where they are to be.
"""

from benchmarks import blas as _blas  # noqa: F401, I001 - before numpy is imported

import os
import secrets
import shutil
import tempfile
from multiprocessing.util import Finalize
from pathlib import Path

import pytest

from gainshare.local.memory_folder import make_memory_folder
from gainshare.local.paths import ROOT
from gainshare.local.throwaway import ThrowawayPostgres

_postgres = pytest.StashKey[ThrowawayPostgres]()
_home = pytest.StashKey[Path]()

OWN = "GAINSHARE_TEST_OWN"
"""Environment variable with the names that this session set, for its workers."""


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        for name in os.environ.pop(OWN, "").split():
            os.environ.pop(name, None)
    elif "TMPDIR" not in os.environ and (folder := make_memory_folder()) is not None:
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
        # After what multiprocessing itself removes there at the end of this process, which has -100.
        Finalize(None, shutil.rmtree, [folder], {"ignore_errors": True}, exitpriority=-200)
    given = set(os.environ)
    os.environ.setdefault("GAINSHARE_SECRET_KEY", secrets.token_urlsafe(32))
    os.environ.setdefault(
        "BROKER_URL", "memory://"
    )  # unit tests need no broker; the stack's tests use Valkey
    if "GAINSHARE_HOME" not in os.environ:
        home = early_config.stash[_home] = Path(tempfile.mkdtemp(prefix="gainshare-home-"))
        os.environ["GAINSHARE_HOME"] = str(home)
        (home / "static").mkdir()  # whitenoise warns if it is missing
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
