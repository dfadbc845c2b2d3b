"""Security headers of every answer: nothing from other hosts, nothing inline, no framing."""

import re
from pathlib import Path

import pytest
from django.test import Client
from pytest_django import Settings

from gainshare.web.http.content_security import DIRECTIVES
from tests.gainshare.ledger.ledger_world import make_user

ROOT = Path(__file__).resolve().parents[3]
TEMPLATES = sorted(
    path for place in ("bounty", "platform") for path in (ROOT / place).rglob("templates/**/*.html")
)
ANSWERS = {
    "/": 200, "/login/": 200, "/nothing/": 404, "/bounties/?page=9999": 404, "/static/web/gainshare.css": 200,
    "/favicon.ico": 200, "/api/v1/bounties/": 200, "/api/v1/nothing/": 404, "/api/v1/credits/": 401,
    "/api/schema/": 200, "/api/docs/": 200, "/api/reference/": 200, "/admin/login/": 200, "/keys/": 302,
}  # fmt: skip


@pytest.mark.parametrize("path", ANSWERS)
def test_every_answer_has_the_headers(db: None, path: str) -> None:
    answer = Client().get(path)
    assert answer.status_code == ANSWERS[path]
    policy = dict(part.split(" ", 1) for part in answer["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Referrer-Policy"] == answer["Cross-Origin-Opener-Policy"] == "same-origin"
    assert "Access-Control-Allow-Origin" not in answer
    assert "Strict-Transport-Security" not in answer


def test_errors_of_the_platform_have_them(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(request: object) -> None:
        raise RuntimeError("for the test")

    monkeypatch.setattr("gainshare.web.views.api.Reference", broken)
    answer = Client(raise_request_exception=False).get("/api/reference/")
    assert answer.status_code == 500
    assert "Content-Security-Policy" in answer and answer["X-Frame-Options"] == "DENY"


def test_a_wrong_host_and_a_forged_form_have_them(db: None) -> None:
    strange = Client().get("/", headers={"host": "evil.example"})
    forged = Client(enforce_csrf_checks=True).post("/login/", {})
    assert (strange.status_code, forged.status_code) == (400, 403)
    assert "Content-Security-Policy" in strange and "Content-Security-Policy" in forged


def test_https_is_demanded_where_the_site_has_it(db: None, settings: Settings) -> None:
    settings.SECURE_HSTS_SECONDS = 3600
    assert Client().get("/", secure=True)["Strict-Transport-Security"] == "max-age=3600"
    assert "Strict-Transport-Security" not in Client().get("/")


def test_the_policy_allows_nothing_inline_and_no_other_host() -> None:
    text = " ".join(DIRECTIVES.values())
    assert not re.search(r"unsafe|nonce|sha\d|https?:|\*|blob:", text)
    assert [name for name, sources in DIRECTIVES.items() if "data:" in sources] == ["img-src"]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_no_template_has_anything_inline(template: Path) -> None:
    text = template.read_text()
    assert not re.search(r"""\sstyle\s*=|\son[a-z]+\s*=\s*["']|<style\b|javascript:""", text)
    assert all(" src=" in tag for tag in re.findall(r"<script\b[^>]*>", text))
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?:https?:)?//""", text)


def test_the_favicon_is_an_icon() -> None:
    answer = Client().get("/favicon.ico")
    content = b"".join(answer.streaming_content)  # type: ignore[attr-defined]  # WhiteNoise streams files
    assert content[:4] == b"\x00\x00\x01\x00" and content.count(b"\x89PNG") == 3
    assert answer["Content-Type"] in ("image/x-icon", "image/vnd.microsoft.icon")


def test_robots_and_sources_of_the_site_are_not_at_its_root(db: None) -> None:
    client = Client()
    client.force_login(make_user())
    for path in ("/../settings.py", "/favicon.ico/../../settings.py", "/__init__.py"):
        assert client.get(path).status_code == 404
