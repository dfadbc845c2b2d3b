"""People who use the site in a browser: log in, sign in with GitHub, link it, make a key. Plain requests, real pages."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from html import unescape
from types import TracebackType

import httpx

from bounty.github.standin.control.standin import StandIn
from bounty.github.standin.records import Account
from gainshare.cli.client import TIMEOUT_S
from gainshare.cli.output import CliError

LEADS_ON = re.compile(r'<meta http-equiv="refresh" content="0;url=([^"]+)">')
KEY = re.compile(r"gs_[0-9a-f]+_[0-9a-f]+")
SCOPES = ("read", "submit", "inference")


class Visitor(AbstractContextManager["Visitor"]):
    """One browser at the site: it keeps cookies, follows redirects and sends forms with their token."""

    def __init__(self, url: str, standin: StandIn) -> None:
        self._standin = standin
        self._browser = httpx.Client(base_url=url, timeout=TIMEOUT_S, follow_redirects=True)

    def log_in(self, name: str, password: str) -> None:
        """Log in with a password. Raises CliError."""
        answer = self._send("/login/", {"username": name, "password": password})
        if answer.url.path == "/login/":
            raise CliError(f"{name} could not log in")

    def sign_in_with_github(self, account: Account, *, as_name: str) -> None:
        """Sign in with GitHub for the first time, and choose a user name. Raises CliError."""
        welcome = self._through_github("/login/", account)
        if welcome.url.path != "/github/welcome/":
            raise CliError(f"{account.login} was led to {welcome.url.path}, not to choosing a name")
        named = self._send("/github/welcome/", {"username": as_name})
        if named.url.path == "/github/welcome/":
            raise CliError(f"{account.login} could not take the name {as_name}")

    def link_github(self, account: Account) -> None:
        """Link a GitHub account to the user who is logged in. Raises CliError."""
        linked = self._through_github("/account/", account)
        if linked.url.path != "/account/" or account.login not in linked.text:
            raise CliError(f"the GitHub account {account.login} could not be linked")

    def make_key(self, name: str) -> str:
        """Make an API key on its page; its text, which is shown once. Raises CliError."""
        page = self._browser.get("/keys/")
        call_id = re.search(r'name="call_id"[^>]*value="([^"]+)"', page.text)
        fields = {"name": name, "scopes": list(SCOPES), "call_id": call_id[1] if call_id else ""}
        shown = KEY.search(self._send("/keys/", fields).text)
        if shown is None:
            raise CliError("the page of the new key shows none")
        return shown[0]

    def _through_github(self, page: str, account: Account) -> httpx.Response:
        """What the site answers when `account`, signed in at GitHub, has allowed it there."""
        self._standin.sign_in(account)
        leaves = LEADS_ON.search(self._send("/github/start/", {}, page=page).text)
        if leaves is None:
            raise CliError("the site does not lead on to GitHub")
        return self._browser.get(unescape(leaves[1]))

    def _send(self, path: str, fields: dict[str, str | list[str]], *, page: str = "") -> httpx.Response:
        """Send a form as the page on which it stands sends it."""
        self._browser.get(page or path)
        token = self._browser.cookies["csrftoken"]
        return self._browser.post(path, data={**fields, "csrfmiddlewaretoken": token})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._browser.close()
