"""The stand-in as one object: start it, act at it, look at what it was asked and what it sent."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from bounty.github.standin.authentication import issue_user_token
from bounty.github.standin.control.pulls import PullControl
from bounty.github.standin.deliveries import Deliveries
from bounty.github.standin.hub import Hub
from bounty.github.standin.keys import key_pair
from bounty.github.standin.local_only import is_own_machine, require_local_mode
from bounty.github.standin.records import Account, App, Recorded
from bounty.github.standin.server import Server
from bounty.github.standin.shapes.links import Site
from bounty.github.standin.state import State
from gainshare.local.errors import LocalModeError


class StandIn(PullControl):
    """A running stand-in with an App registered. Make it with `running`."""

    def __init__(
        self, root: Path, *, port: int = 0, hook_url: str = "", slug: str = "gainshare-local"
    ) -> None:
        require_local_mode()
        self._server = Server(port)
        self.url = self._server.url
        state = State(root, self.url)
        self.api_url = state.api_url
        self.hub = Hub(state, Site(self.url, self.api_url), Deliveries(state))
        self.private_key, public_key = key_pair()
        owner = self.add_user("gainshare-app-owner")
        bot = self.add_user(f"{slug}[bot]", kind="Bot")
        state.app = App(
            1_204_417, slug, slug, owner, bot, public_key, state.now(), secrets.token_hex(20), "",
            f"Iv23li{secrets.token_hex(7)}", secrets.token_hex(20),
        )  # fmt: skip
        self.set_hook(hook_url)
        self._server.start(self.hub)

    @property
    def app(self) -> App:
        return self.hub.app

    @property
    def deliveries(self) -> Deliveries:
        """Webhook deliveries: hold, release, lose, double, shuffle, redeliver, settle."""
        return self.hub.deliveries

    @property
    def requests(self) -> list[Recorded]:
        """All requests that came, in order."""
        with self.hub.state.lock:
            return list(self.hub.state.requests)

    def asked(self, method: str, part: str = "") -> list[Recorded]:
        """Requests of a method whose address has a part."""
        return [row for row in self.requests if row.method == method and part in row.path]

    def set_hook(self, url: str) -> None:
        """Where events are sent; an empty address keeps them. Raises LocalModeError for another machine's."""
        if url and not is_own_machine(url):
            raise LocalModeError(
                "the stand-in for GitHub sends events to this machine only", code="not_local"
            )
        self.app.hook_url = url

    def rotate_secret(self) -> str:
        """Sign with a new webhook secret from now on; the secret."""
        self.app.webhook_secret = secrets.token_hex(20)
        return self.app.webhook_secret

    def revoke_tokens(self) -> None:
        """End all tokens at once."""
        with self.hub.state.lock:
            self.hub.state.tokens.clear()

    def user_token(self, account: Account) -> str:
        """A token of a user, as the OAuth flow gives it."""
        with self.hub.state.lock:
            return issue_user_token(self.hub.state, account, "").text

    def use_up_limit(self, installation_id: int) -> None:
        """Leave an installation no request for the rest of its hour."""
        with self.hub.state.lock:
            self.hub.state.limits.use_up(f"installation {installation_id}", self.hub.state.now())

    def slow_down(self, seconds: int) -> None:
        """Answer everything with the secondary limit for some seconds; 0 ends that."""
        with self.hub.state.lock:
            now = self.hub.state.now()
            self.hub.state.limits.secondary_until = now + timedelta(seconds=seconds) if seconds else None

    def break_down(self, status: int) -> None:
        """Answer the REST API with a page of this status, as a proxy before a broken server does; 0 ends that."""
        with self.hub.state.lock:
            self.hub.state.broken_status = status

    def settings(self) -> dict[str, object]:
        """Django settings with which the site speaks to this stand-in."""
        return {
            "GITHUB_URL": self.url,
            "GITHUB_API_URL": self.api_url,
            "GITHUB_APP_ID": str(self.app.github_id),
            "GITHUB_PRIVATE_KEY": self.private_key,
            "GITHUB_WEBHOOK_SECRETS": [self.app.webhook_secret],
            "GITHUB_CLIENT_ID": self.app.client_id,
            "GITHUB_CLIENT_SECRET": self.app.client_secret,
            "REPOSITORY_PROTOCOLS": ["https", "http"],
        }

    def environment(self) -> dict[str, str]:
        """The same as environment variables, for processes of the site."""
        return {
            "GAINSHARE_GITHUB_URL": self.url,
            "GAINSHARE_GITHUB_API_URL": self.api_url,
            "GAINSHARE_GITHUB_APP_ID": str(self.app.github_id),
            "GAINSHARE_GITHUB_PRIVATE_KEY": self.private_key,
            "GAINSHARE_GITHUB_WEBHOOK_SECRET": self.app.webhook_secret,
            "GAINSHARE_GITHUB_CLIENT_ID": self.app.client_id,
            "GAINSHARE_GITHUB_CLIENT_SECRET": self.app.client_secret,
            "GAINSHARE_REPOSITORY_HTTP": "yes",
        }

    def close(self) -> None:
        """End the server and the sending of events."""
        self.deliveries.close()
        self._server.close()


@contextmanager
def running(root: Path, *, port: int = 0, hook_url: str = "") -> Iterator[StandIn]:
    """A stand-in that keeps its repositories below `root`. Raises LocalModeError outside local mode."""
    standin = StandIn(root, port=port, hook_url=hook_url)
    try:
        yield standin
    finally:
        standin.close()
