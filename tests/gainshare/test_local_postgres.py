"""The embedded PostgreSQL: starts as root and as a user, survives kill -9, needs its password."""

import pytest
from django.db import connection


@pytest.mark.django_db
def test_database_of_the_suite_answers() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
