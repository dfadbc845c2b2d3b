"""Shared by the whole suite: the database starts when first needed, hashing is cheap, skips fail in CI."""

import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import hypothesis
import pytest
from django.conf import settings
from django.http import HttpResponse
from django.test import Client

from gainshare.local.throwaway import ThrowawayPostgres
from tests import emptied_tables, lost_connection, rest_contract
from tests.short_paths import short_parent

EXPECTED_SKIP = "expected:"
DATABASE = frozenset({"db", "transactional_db", "live_server", "throwaway_postgres"})
MEASURING = "measures"


def pytest_configure() -> None:
    # Tests that share the cores compute on one thread each, and so do their programs: threads that wait by spinning
    # keep the others' tests from the cores.
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Passwords in tests protect nothing; the real hasher costs 0.3 s each.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    # Random re-measurements are drawn by random ids; tests of the draw switch them on.
    settings.RECHECK_PERCENT = 0
    # How fast a busy machine draws examples says nothing about the code.
    hypothesis.settings.register_profile(
        "busy machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("busy machine")
    # A shell's background job ignores Ctrl-C, and so would all programs that tests start and interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import only the files of measuring tests where `-m` selects no others: importing all takes 25 s of a core."""
    chosen = config.option.markexpr.split()
    if collection_path.suffix == ".py" and "or" not in chosen and chosen[-2:] == ["and", MEASURING]:
        return MEASURING not in collection_path.read_text() or None
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a database, before markers select: `make test-quick` leaves it out."""
    for item in items:
        names = frozenset(getattr(item, "fixturenames", ()))
        if names & DATABASE or item.get_closest_marker("django_db"):
            item.add_marker("database")
        if item.get_closest_marker(MEASURING) and MEASURING not in item.path.read_text():
            raise pytest.UsageError(
                f"{item.nodeid}: the marker has to be in the test's own file, by which it is found"
            )


def pytest_collection_finish() -> None:
    """Keep what was imported and collected out of later garbage collections: one of all of it takes a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def django_db_modify_db_settings(throwaway_postgres: ThrowawayPostgres | None) -> None:
    """pytest-django asks for this before it creates the test database."""
    emptied_tables.install()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A private folder with a path short enough for Unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="gs-", dir=short_parent()))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may pass through (pytest's own are 0700), with a short path."""
    folder = Path(tempfile.mkdtemp(prefix="gs-", dir=short_parent()))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def answers_are_as_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare every answer of the REST API with the OpenAPI document."""
    ask = Client.request

    def asked(client: Client, **request: Any) -> HttpResponse:
        answer = ask(client, **request)
        rest_contract.check(request["REQUEST_METHOD"], request["PATH_INFO"], answer)
        return answer

    monkeypatch.setattr(Client, "request", asked)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """A test or fixture that skips; one that lost its database tells what is known of that."""
    report = fail_unexpected_skip((yield))
    if report.failed and lost_connection.is_told_by(report.longreprtext):
        log = (
            Path(unquote(urlsplit(os.environ["DATABASE_URL"]).query.removeprefix("host="))).parent
            / "postgres.log"
        )
        report.sections.append(("the database's log", lost_connection.described(log)))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    """A module that skips while it is imported."""
    return fail_unexpected_skip((yield))


def fail_unexpected_skip(report: Any) -> Any:
    """With CI=true a skip is a failure, unless its reason starts with "expected:" (say, a GPU that CI lacks)."""
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not reason.removeprefix("Skipped: ").startswith(EXPECTED_SKIP):
            report.outcome = "failed"
            report.longrepr = f"unexpected skip in CI: {reason}"
    return report
