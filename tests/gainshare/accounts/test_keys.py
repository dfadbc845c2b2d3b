"""API keys: hashed, shown once, scoped, expiring, revocable; and never in any log or message."""

import hashlib
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from gainshare.accounts.keys import RawKey
from gainshare.accounts.models import ApiKey, User
from gainshare.accounts.services import (
    BadAccountData,
    InvalidKey,
    NotAllowed,
    NotFound,
    authenticate_key,
    create_api_key,
    revoke_api_key,
)
from tests.gainshare.ledger.ledger_world import make_user


@pytest.fixture
def ann(db: Any) -> User:
    return make_user()


def make(user: User, *scopes: str, **more: Any) -> tuple[ApiKey, str]:
    return create_api_key(user=user, name="laptop", scopes=list(scopes or ["read"]), **more)


def test_a_raw_key_survives_its_text_and_keeps_its_secret_out_of_repr() -> None:
    raw = RawKey.generate()
    assert RawKey.parse(raw.text) == raw
    assert len(bytes.fromhex(raw.secret)) == 32
    assert raw.secret not in repr(raw)
    assert raw.matches(hashlib.sha256(raw.secret.encode()).hexdigest())
    assert not raw.matches(RawKey.generate().secret_hash)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gs_",
        "gs_a_b",
        "gsr_0123456789ab_" + "0" * 64,
        "gs_0123456789ab_" + "0" * 63,
        "xx_0123456789ab_" + "0" * 64,
    ],
)
def test_what_is_not_a_key_is_not_parsed(text: str) -> None:
    assert RawKey.parse(text) is None


def test_only_the_hash_of_the_secret_is_stored(ann: User) -> None:
    key, raw = make(ann, "read", "inference", "read")
    secret = raw.split("_")[2]
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM accounts_apikey WHERE id = %s", [key.pk])
        assert secret not in str(cursor.fetchone())
    assert key.secret_hash == hashlib.sha256(secret.encode()).hexdigest()
    assert key.scopes == ["read", "inference"]
    assert secret not in str(key)


def test_a_key_authenticates_its_owner_with_one_query_for_both(ann: User) -> None:
    key, raw = make(ann)
    ApiKey.objects.update(last_used_at=timezone.now())
    with CaptureQueriesContext(connection) as queries:
        found = authenticate_key(raw)
        assert (found, found.user) == (key, ann)
    assert len(queries) == 1


@pytest.mark.parametrize("raw", ["", "gs_x", "Bearer", "gs_0123456789ab_" + "0" * 64])
def test_unknown_keys_are_refused_without_being_repeated(db: Any, raw: str) -> None:
    with pytest.raises(InvalidKey) as refusal:
        authenticate_key(raw)
    assert refusal.value.status == 401
    assert not raw or raw not in refusal.value.reason


def test_a_right_prefix_with_a_wrong_secret_reads_like_an_unknown_key(ann: User) -> None:
    _, raw = make(ann)
    wrong = raw[:-1] + ("0" if raw[-1] != "0" else "1")
    with pytest.raises(InvalidKey, match="unknown"):
        authenticate_key(wrong)


def test_expired_revoked_and_disabled_keys_are_refused(ann: User) -> None:
    key, raw = make(ann, expires_at=timezone.now() + timedelta(hours=1))
    authenticate_key(raw)
    ApiKey.objects.filter(pk=key.pk).update(expires_at=timezone.now())
    with pytest.raises(InvalidKey, match="expired"):
        authenticate_key(raw)
    _, second = make(ann)
    User.objects.filter(pk=ann.pk).update(is_active=False)
    with pytest.raises(InvalidKey, match="disabled"):
        authenticate_key(second)


def test_the_last_use_is_noted_at_most_once_a_minute(ann: User) -> None:
    key, raw = make(ann)
    authenticate_key(raw)
    key.refresh_from_db()
    first = key.last_used_at
    assert first is not None
    with CaptureQueriesContext(connection) as queries:
        authenticate_key(raw)
    assert not any("UPDATE" in query["sql"] for query in queries)
    key.refresh_from_db()
    assert key.last_used_at == first
    ApiKey.objects.update(last_used_at=first - timedelta(minutes=2))
    assert authenticate_key(raw).last_used_at > first - timedelta(minutes=1)
    key.refresh_from_db()
    assert key.last_used_at is not None
    assert key.last_used_at >= first


def test_revoking_ends_a_key_and_all_keys_made_with_it(ann: User) -> None:
    parent, parent_raw = make(ann, "read", "submit")
    child, child_raw = make(ann, "submit", made_with=parent)
    _, grandchild_raw = make(ann, "submit", made_with=child)
    _, other_raw = make(ann)
    first = revoke_api_key(user=ann, prefix=parent.prefix)
    for raw in (parent_raw, child_raw, grandchild_raw):
        with pytest.raises(InvalidKey, match="revoked"):
            authenticate_key(raw)
    authenticate_key(other_raw)
    assert revoke_api_key(user=ann, prefix=parent.prefix).revoked_at == first.revoked_at


def test_no_one_revokes_another_persons_key(ann: User) -> None:
    key, raw = make(ann)
    with pytest.raises(NotFound):
        revoke_api_key(user=make_user(), prefix=key.prefix)
    authenticate_key(raw)


def test_a_key_made_with_a_key_is_never_stronger_or_longer_lived(ann: User) -> None:
    end = timezone.now() + timedelta(days=1)
    parent, _ = make(ann, "read", expires_at=end)
    with pytest.raises(NotAllowed):
        make(ann, "submit", made_with=parent)
    assert make(ann, made_with=parent)[0].expires_at == end
    assert make(ann, made_with=parent, expires_at=end + timedelta(days=9))[0].expires_at == end
    sooner = end - timedelta(hours=1)
    assert make(ann, made_with=parent, expires_at=sooner)[0].expires_at == sooner


def test_only_maintainers_have_the_scope_maintain(ann: User) -> None:
    with pytest.raises(NotAllowed):
        make(ann, "maintain")
    maintainer = make_user("maintainer")
    key, _ = make(maintainer, "maintain")
    assert key.has_scope("maintain")
    assert not key.has_scope("read")
    maintainer.role = "contributor"
    assert not key.has_scope("maintain")


@pytest.mark.parametrize(
    "change",
    [
        {"name": " "},
        {"name": "x" * 81},
        {"scopes": []},
        {"scopes": ["read", "fly"]},
        {"expires_at": timezone.now() - timedelta(seconds=1)},
    ],
)
def test_unusable_key_data_is_refused(ann: User, change: dict[str, Any]) -> None:
    with pytest.raises(BadAccountData):
        create_api_key(**{"user": ann, "name": "laptop", "scopes": ["read"], **change})
    assert not ApiKey.objects.exists()
