"""The stand-in with one repository and its installation, and a caller that speaks plain HTTP to it."""

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from bounty.github.standin import records
from bounty.github.standin.control.standin import StandIn, running
from bounty.github.standin.git import ENVIRONMENT


@dataclass
class Place:
    """Olga's octo/model, which Mira may write to; Cora has a fork. Requests go as the installation."""

    standin: StandIn
    folder: Path
    repository: records.Repository = field(init=False)
    opened: records.Installation = field(init=False)
    mira: records.Account = field(init=False)
    cora: records.Account = field(init=False)
    token: str = ""

    def __post_init__(self) -> None:
        self.mira, self.cora = self.standin.add_user("mira"), self.standin.add_user("cora")
        self.repository = self.standin.add_repository(
            "octo/model", {"model/router.py": "gate = 1\n", "README.md": "Read me\n"}, roles={"mira": "write"}
        )
        self.opened = self.standin.install([self.repository])
        self.token = self.new_token()

    def app(self) -> dict[str, str]:
        """Authorization of the App."""
        now = int(time.time())
        claims = {"iat": now - 60, "exp": now + 300, "iss": str(self.standin.app.github_id)}
        return {"Authorization": f"Bearer {jwt.encode(claims, self.standin.private_key, algorithm='RS256')}"}

    def new_token(self, **permissions: str) -> str:
        body = {"permissions": permissions} if permissions else {}
        url = f"{self.standin.api_url}/app/installations/{self.opened.github_id}/access_tokens"
        made = httpx.post(url, headers=self.app(), json=body)
        assert made.status_code == 201, made.text
        return str(made.json()["token"])

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"token {self.token}", **options.pop("headers", {})}
        return httpx.request(method, f"{self.standin.api_url}{path}", headers=headers, **options)

    def get(self, path: str, **query: str | int) -> httpx.Response:
        return self.ask("GET", f"/repos/octo/model{path}", params=query)

    def post(self, path: str, body: Any) -> httpx.Response:
        return self.ask("POST", f"/repos/octo/model{path}", json=body)

    def pull(self, text: str = "gate = 2\n", **more: Any) -> records.PullRequest:
        return self.standin.open_pull_request(self.repository, self.cora, {"model/router.py": text}, **more)

    def git(self, *arguments: str, check: bool = True) -> str:
        """Git as a visitor of the web address runs it."""
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, env=ENVIRONMENT, cwd=self.folder, check=False
        )
        if check:
            assert done.returncode == 0, done.stderr
        return (done.stdout + done.stderr).strip()

    def at(self, ref: str) -> str:
        """The commit of a ref as git's protocol tells it; empty if there is none."""
        told = self.git("ls-remote", f"{self.standin.url}/octo/model", ref)
        return told.split()[0] if told else ""

    def events(self, *, after: int = 0) -> list[str]:
        """Events so far as EVENT or EVENT.ACTION."""
        return [f"{row.event}.{row.action}".rstrip(".") for row in self.standin.deliveries.all[after:]]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with running(tmp_path / "github") as started:
        yield Place(started, tmp_path)
