"""What the test suite saves time with: forked programs, tables emptied by their rows, files that are not imported."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.contrib.auth.models import Permission
from django.core.management import call_command
from django.core.management.color import no_style
from django.db import connection

from gainshare.accounts.models import User
from tests.emptied_tables import empty_written_tables
from tests.forked_worker import run_forked

TESTS = Path(__file__).resolve().parents[2]


def test_a_forked_program_has_its_own_arguments_environment_folder_and_status(tmp_path: Path) -> None:
    program = "import os, sys; print(sys.argv, dict(os.environ), os.getcwd(), file=sys.stderr); sys.exit(3)"
    status, output = run_forked(program, "a b", environment={"ONLY": "this"}, folder=tmp_path)
    assert status == 3
    assert output == f"['-c', 'a b'] {{'ONLY': 'this'}} {tmp_path}\n"


def test_a_forked_program_fails_with_its_traceback_and_dies_for_real(tmp_path: Path) -> None:
    status, output = run_forked("import os; 1 / 0", environment=os.environ, folder=tmp_path)
    assert status == 1 and "ZeroDivisionError" in output
    killed = run_forked("import os; os.kill(os.getpid(), 9)", environment=os.environ, folder=tmp_path)
    assert killed == (-signal.SIGKILL, "")


def test_a_forked_program_that_does_not_end_is_killed(tmp_path: Path) -> None:
    program = "import signal; print('waits', flush=True); signal.pause()"
    with pytest.raises(TimeoutError, match=r"no end after 5 s: waits"):
        run_forked(program, environment=os.environ, folder=tmp_path, timeout_s=5)


@pytest.mark.django_db(transaction=True)
def test_only_written_tables_are_emptied_and_permissions_stay() -> None:
    permissions = sorted(Permission.objects.values_list("pk", "codename"))
    assert permissions
    User.objects.create(username="ann")
    tables = connection.introspection.django_table_names(only_existing=True, include_views=False)
    first, *deletions = empty_written_tables(connection.ops, no_style(), tables)  # type: ignore[arg-type]
    assert first == "SET LOCAL session_replication_role = replica"
    assert 'DELETE FROM "accounts_user"' in deletions and len(deletions) < 10 < len(tables)
    call_command("flush", verbosity=0, interactive=False, reset_sequences=False)
    assert not User.objects.exists()
    assert sorted(Permission.objects.values_list("pk", "codename")) == permissions
    with connection.cursor() as cursor:
        cursor.execute("SHOW session_replication_role")
        assert cursor.fetchone() == ("origin",)


@pytest.mark.parametrize(
    ("expression", "ignored"),
    [
        ("not long and measures", True),
        ("not long and not measures", False),
        ("not long", False),
        ("stack or not long and measures", False),
        ("", False),
    ],
)
def test_files_without_measuring_tests_are_ignored_only_where_no_others_are_chosen(
    pytestconfig: pytest.Config, expression: str, ignored: bool
) -> None:
    plugins = pytestconfig.pluginmanager.get_plugins()
    conftest = next(
        plugin for plugin in plugins if getattr(plugin, "__file__", "") == str(TESTS / "conftest.py")
    )
    config = SimpleNamespace(option=SimpleNamespace(markexpr=expression))
    assert bool(conftest.pytest_ignore_collect(TESTS / "bounty" / "test_rewards.py", config)) is ignored
    assert not conftest.pytest_ignore_collect(TESTS / "benchmarks" / "pairs" / "test_pace.py", config)
    assert not conftest.pytest_ignore_collect(TESTS / "benchmarks" / "pairs", config)
