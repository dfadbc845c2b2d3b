"""REST of accounts: sign-up, a first key by password, keys by key, roles, and the one error shape."""

import base64
from typing import Any

import pytest
from django.core.exceptions import PermissionDenied
from django.http import Http404
from rest_framework import exceptions
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.test import APIClient, APIRequestFactory
from rest_framework.views import APIView

from gainshare.accounts import errors
from gainshare.accounts.models import ApiKey, User
from gainshare.accounts.permissions import HasScope
from gainshare.accounts.services import create_api_key, create_user
from tests.gainshare.ledger.ledger_world import make_user

PASSWORD = "correct horse battery"


@pytest.fixture
def ann(db: Any) -> User:
    return create_user(username="ann", password=PASSWORD)


def with_password(username: str, password: str = PASSWORD) -> APIClient:
    client = APIClient()
    token = base64.b64encode(f"{username}:{password}".encode()).decode()
    client.credentials(HTTP_AUTHORIZATION=f"Basic {token}")
    return client


def with_key(raw: str) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {raw}")
    return client


def key_of(user: User, *scopes: str) -> str:
    return create_api_key(user=user, name="test", scopes=list(scopes))[1]


@pytest.mark.django_db
def test_a_fresh_user_signs_up_makes_a_first_key_and_uses_it() -> None:
    body = {"username": "ann", "password": PASSWORD, "email": "ann@example.org"}
    made = APIClient().post("/api/v1/users/", body, format="json")
    assert made.status_code == 201
    assert PASSWORD not in made.content.decode()
    new_key = {"name": "laptop", "scopes": ["read", "inference"]}
    answer = with_password("ann").post("/api/v1/keys/", new_key, format="json")
    assert answer.status_code == 201
    raw = answer.json()["key"]
    client = with_key(raw)
    assert client.get("/api/v1/users/me/").json()["username"] == "ann"
    listed = client.get("/api/v1/keys/").json()["results"]
    assert [(key["prefix"], key["scopes"]) for key in listed] == [(raw.split("_")[1], ["read", "inference"])]
    assert raw.split("_")[2] not in str(listed)
    assert "key" not in listed[0]


@pytest.mark.django_db
def test_sign_up_can_be_closed(settings: Any) -> None:
    settings.OPEN_SIGNUP = False
    body = {"username": "ann", "password": PASSWORD}
    answer = APIClient().post("/api/v1/users/", body, format="json")
    assert answer.status_code in (401, 403)
    assert not User.objects.exists()
    maintainer = with_key(key_of(make_user("maintainer"), "maintain"))
    assert maintainer.post("/api/v1/users/", body, format="json").status_code == 201


def test_no_one_signs_up_with_a_role(ann: User) -> None:
    body = {"username": "eve", "password": PASSWORD, "role": "maintainer", "is_superuser": True}
    assert APIClient().post("/api/v1/users/", body, format="json").status_code == 201
    assert not User.objects.get(username="eve").is_maintainer


def test_sign_up_explains_what_is_wrong(ann: User) -> None:
    taken = APIClient().post("/api/v1/users/", {"username": "Ann", "password": PASSWORD}, format="json")
    assert (taken.status_code, taken.json()["error"]["code"]) == (409, "username_taken")
    weak = APIClient().post("/api/v1/users/", {"username": "bob", "password": "hunter2"}, format="json")
    assert (weak.status_code, weak.json()["error"]["code"]) == (400, "invalid")
    assert "hunter2" not in weak.content.decode()
    missing = APIClient().post("/api/v1/users/", {}, format="json")
    assert set(missing.json()["error"]["details"]) == {"username", "password"}


def test_a_wrong_password_makes_no_key(ann: User) -> None:
    body = {"name": "x", "scopes": ["read"]}
    answer = with_password("ann", "wrong password").post("/api/v1/keys/", body, format="json")
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert not ApiKey.objects.exists()


def test_passwords_open_nothing_but_keys(ann: User) -> None:
    assert with_password("ann").get("/api/v1/users/me/").status_code == 401


def test_a_key_makes_only_weaker_keys(ann: User) -> None:
    client = with_key(key_of(ann, "read", "inference"))
    body = {"name": "ci", "scopes": ["inference"]}
    made = client.post("/api/v1/keys/", body, format="json")
    assert made.status_code == 201
    assert made.json()["made_with"] is not None
    stronger = client.post("/api/v1/keys/", {"name": "ci", "scopes": ["submit"]}, format="json")
    assert (stronger.status_code, stronger.json()["error"]["code"]) == (403, "not_allowed")
    useless = with_key(key_of(ann, "inference")).post("/api/v1/keys/", body, format="json")
    assert useless.status_code == 403
    maintain = with_password("ann").post(
        "/api/v1/keys/", {"name": "m", "scopes": ["maintain"]}, format="json"
    )
    assert maintain.status_code == 403


def test_a_revoked_key_is_refused_at_once(ann: User) -> None:
    raw = key_of(ann, "read")
    client = with_key(raw)
    assert client.delete(f"/api/v1/keys/{raw.split('_')[1]}/").status_code == 204
    answer = client.get("/api/v1/users/me/")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_key")
    other = key_of(make_user(), "read")
    assert with_key(key_of(ann, "read")).delete(f"/api/v1/keys/{other.split('_')[1]}/").status_code == 404
    assert with_key(other).get("/api/v1/users/me/").status_code == 200


def test_a_key_revokes_only_keys_that_may_do_no_more(ann: User) -> None:
    strong, weak, equal = key_of(ann, "read", "submit"), key_of(ann, "read"), key_of(ann, "read")
    refused = with_key(weak).delete(f"/api/v1/keys/{strong.split('_')[1]}/")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_allowed")
    assert with_key(strong).get("/api/v1/users/me/").status_code == 200
    assert with_key(weak).delete(f"/api/v1/keys/{equal.split('_')[1]}/").status_code == 204
    assert with_key(strong).delete(f"/api/v1/keys/{weak.split('_')[1]}/").status_code == 204
    assert with_password("ann").delete(f"/api/v1/keys/{strong.split('_')[1]}/").status_code == 204
    for raw in (strong, weak, equal):
        assert with_key(raw).get("/api/v1/users/me/").status_code == 401


def test_a_wrong_key_is_never_echoed(ann: User) -> None:
    raw = "gs_0123456789ab_" + "f" * 64
    for header in (f"Bearer {raw}", f"Bearer {raw} {raw}", "Bearer hello", f"Bearer {raw}é"):
        client = APIClient()
        client.credentials(HTTP_AUTHORIZATION=header)
        answer = client.get("/api/v1/users/me/")
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.json()["error"]["code"] == "invalid_key"
        assert "ffff" not in answer.content.decode()
    name = with_password("ann").post("/api/v1/keys/", {"name": "n", "scopes": [raw]}, format="json")
    assert name.status_code == 400
    assert "ffff" not in name.content.decode()
    assert "gs_***" in name.content.decode()


def test_runner_tokens_are_left_to_the_runner_api(ann: User) -> None:
    answer = with_key("gsr_" + "a" * 40).get("/api/v1/users/me/")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "not_authenticated")


def test_roles_are_given_by_maintainers(ann: User) -> None:
    boss = make_user("maintainer")
    path = f"/api/v1/users/{ann.username}/role/"
    assert with_key(key_of(ann, "read")).post(path, {"role": "maintainer"}, format="json").status_code == 403
    assert with_key(key_of(boss, "read")).post(path, {"role": "maintainer"}, format="json").status_code == 403
    client = with_key(key_of(boss, "maintain"))
    assert client.post(path, {"role": "maintainer"}, format="json").json()["is_maintainer"] is True
    assert client.post(path, {"role": "king"}, format="json").status_code == 400
    assert client.post("/api/v1/users/nobody/role/", {"role": "maintainer"}, format="json").status_code == 404


def test_a_browser_session_has_all_scopes_of_its_role(ann: User) -> None:
    client = APIClient()
    client.force_login(ann)
    assert client.get("/api/v1/users/me/").status_code == 200
    assert client.get("/api/v1/treasury/").status_code == 403
    client.force_login(make_user("maintainer"))
    assert client.get("/api/v1/treasury/").status_code == 200


def test_scopes_are_named_right_or_not_at_all() -> None:
    with pytest.raises(ValueError, match="fly"):
        HasScope("fly")


class Boom(APIView):
    """Raises what the test wants."""

    permission_classes: list[Any] = []
    error: Exception = RuntimeError("secret gs_0123456789ab_ffff")

    def get(self, request: Request) -> Response:
        raise self.error


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.DomainError("No gs_abc_def here."), 400, "refused"),
        (errors.DomainError("gone", code="gone", status=410), 410, "gone"),
        (Http404("gs_abc_def"), 404, "not_found"),
        (PermissionDenied(), 403, "permission_denied"),
        (exceptions.MethodNotAllowed("PUT"), 405, "method_not_allowed"),
        (exceptions.Throttled(wait=7), 429, "throttled"),
        (exceptions.ParseError("bad"), 400, "parse_error"),
    ],
)
def test_every_error_has_one_shape(error: Exception, status: int, code: str) -> None:
    answer = Boom.as_view(error=error)(APIRequestFactory().get("/"))
    assert answer.status_code == status
    assert set(answer.data) == {"error"}
    assert answer.data["error"]["code"] == code
    assert set(answer.data["error"]) == {"code", "message"}
    assert "abc_def" not in answer.data["error"]["message"]


def test_validation_errors_say_which_fields() -> None:
    error = exceptions.ValidationError({"scopes": {"0": ["gsr_abc is no scope"]}, "name": ["Required."]})
    answer = Boom.as_view(error=error)(APIRequestFactory().get("/"))
    assert answer.data["error"]["details"] == {
        "scopes": {"0": ["gsr_*** is no scope"]},
        "name": ["Required."],
    }


def test_an_unforeseen_error_is_logged_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    answer = Boom.as_view()(APIRequestFactory().get("/"))
    assert answer.status_code == 500
    assert answer.data == {
        "error": {
            "code": "internal_error",
            "message": "The platform failed, and the failure was logged. Try again later.",
        }
    }
    assert "unexpected error in Boom" in caplog.text


def test_errors_are_importable_without_django_being_set_up() -> None:
    import subprocess
    import sys

    code = "import sys; from gainshare.accounts.errors import DomainError; assert 'gainshare.accounts.models' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": "platform"}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.django_db
def test_the_admin_lists_users_and_keys_without_hashes(client: Any, ann: User) -> None:
    raw = key_of(ann, "read")
    key = ApiKey.objects.get()
    admin = make_user()
    admin.is_staff = admin.is_superuser = True
    admin.save()
    client.force_login(admin)
    assert client.get("/admin/accounts/user/").status_code == 200
    assert client.get(f"/admin/accounts/user/{ann.pk}/change/").status_code == 200
    page = client.get(f"/admin/accounts/apikey/{key.pk}/change/").content.decode()
    assert key.prefix in page
    assert key.secret_hash not in page
    assert client.get("/admin/accounts/apikey/add/").status_code == 403
    client.post("/admin/accounts/apikey/", {"action": "revoke", "_selected_action": [key.pk]})
    assert with_key(raw).get("/api/v1/users/me/").status_code == 401
