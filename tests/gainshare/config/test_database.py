"""Parsing of DATABASE_URL: the connection's parts, and prepared statements."""

import pytest
from django.db import connection

from gainshare.config.env import BadSetting, postgres_settings


def test_a_url_gives_every_part_of_the_connection() -> None:
    entry = postgres_settings("postgresql://ann:s%40fe@db.example:5433/shop?sslmode=require")
    assert (entry["USER"], entry["PASSWORD"], entry["HOST"], entry["PORT"], entry["NAME"]) == (
        "ann", "s@fe", "db.example", "5433", "shop",
    )  # fmt: skip
    options = entry["OPTIONS"]
    assert options == {"sslmode": "require", "server_side_binding": True, "prepare_threshold": 3}


def test_a_socket_folder_comes_from_the_query() -> None:
    assert postgres_settings("postgresql:///shop?host=/run/db")["HOST"] == "/run/db"


@pytest.mark.parametrize(("given", "threshold"), [("none", None), ("7", 7)])
def test_preparing_statements_can_be_changed(given: str, threshold: int | None) -> None:
    options = postgres_settings(f"postgresql:///shop?prepare_threshold={given}")["OPTIONS"]
    assert isinstance(options, dict)
    assert options["prepare_threshold"] == threshold


@pytest.mark.parametrize(
    "url",
    [
        "mysql://db/shop",
        "postgresql:///shop?prepare_threshold=often",
        "postgresql:///shop?prepare_threshold=-1",
    ],
)
def test_what_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(BadSetting, match="DATABASE_URL"):
        postgres_settings(url)


@pytest.mark.django_db
def test_a_statement_that_repeats_is_prepared_by_the_server() -> None:
    with connection.cursor() as cursor:
        for _ in range(4):
            cursor.execute("SELECT %s::integer + 41", [1])
        cursor.execute("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE %s", ["%+ 41%"])
        assert cursor.fetchone() == (1,)
