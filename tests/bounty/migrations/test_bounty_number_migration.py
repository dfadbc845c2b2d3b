"""The migration that numbers bounties, on a database of its own that has bounties already."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.executor import MigrationExecutor

NUMBERED = ("bounty", "0018_bounty_number")
FIRST_AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def unnumbered(transactional_db: None) -> Iterator[BaseDatabaseWrapper]:
    """An empty database with every migration before this one, which is the default one meanwhile."""
    home = connections["default"]
    name = f"{home.settings_dict['NAME']}_migrated"
    with home.cursor() as cursor:
        cursor.execute(f'DROP DATABASE IF EXISTS "{name}"')
        cursor.execute(f'CREATE DATABASE "{name}"')
    other = home.copy()
    other.settings_dict = {**home.settings_dict, "NAME": name}
    connections["default"] = other
    try:
        MigrationExecutor(other).migrate(before(other))
        yield other
    finally:
        other.close()
        connections["default"] = home
        with home.cursor() as cursor:
            cursor.execute(f'DROP DATABASE "{name}"')


def before(other: BaseDatabaseWrapper) -> list[tuple[str, str]]:
    """The migrations that this one depends on."""
    graph = MigrationExecutor(other).loader.graph
    return sorted(parent.key for parent in graph.node_map[NUMBERED].parents)


def add_bounties(other: BaseDatabaseWrapper, n: int) -> list[str]:
    """Bounties opened a day apart, written newest first; their ids in order of opening."""
    ids = [str(uuid4()) for _ in range(n)]
    with other.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")  # rows that these name are left out
        for day in reversed(range(n)):
            cursor.execute(
                "INSERT INTO bounty_bounty (id, title, description, lineage_id, suite, preset, hardware,"
                " escrow_microcredits, rate_microcredits_per_nat, severity, min_reviewers, max_attempts, state,"
                " created_by_id, created_at) VALUES"
                " (%s, 'T', '', 1, 'moe_forward', 'demo', 'cpu', 1, 1, '', 1, 1, 'open', 1, %s)",
                [ids[day], FIRST_AT + timedelta(days=day)],
            )
        cursor.execute("SET session_replication_role = origin")
    return ids


def numbers_of(other: BaseDatabaseWrapper) -> dict[str, int]:
    with other.cursor() as cursor:
        cursor.execute("SELECT id, number FROM bounty_bounty")
        return {str(key): number for key, number in cursor.fetchall()}


def test_bounties_get_their_numbers_by_order_of_opening(unnumbered: BaseDatabaseWrapper) -> None:
    ids = add_bounties(unnumbered, 4)
    MigrationExecutor(unnumbered).migrate([NUMBERED])
    assert numbers_of(unnumbered) == {key: place for place, key in enumerate(ids, start=1)}
    (newest,) = add_bounties(unnumbered, 1)
    assert numbers_of(unnumbered)[newest] == 5


def test_the_first_bounty_of_a_new_site_is_number_one(unnumbered: BaseDatabaseWrapper) -> None:
    MigrationExecutor(unnumbered).migrate([NUMBERED])
    (first,) = add_bounties(unnumbered, 1)
    assert numbers_of(unnumbered) == {first: 1}


def test_numbers_stay_as_they_are_when_the_migration_is_taken_back_and_made_again(
    unnumbered: BaseDatabaseWrapper,
) -> None:
    ids = add_bounties(unnumbered, 3)
    for target in ([NUMBERED], before(unnumbered), [NUMBERED]):
        MigrationExecutor(unnumbered).migrate(target)
    assert numbers_of(unnumbered) == {key: place for place, key in enumerate(ids, start=1)}
