"""Sends one request to GitHub through PyGithub's requester: no sleeping, no retries, answers of a limited size.

PyGithub's own connection loses the query of a redirect and sleeps on 202, so requests go over a connection of ours.
"""

from __future__ import annotations

import json
import logging
from collections.abc import ItemsView, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urljoin, urlsplit

import requests
from github import GithubException
from github.Requester import Requester
from requests.structures import CaseInsensitiveDict

from bounty.github.app.facts import GitHubError

TIMEOUT_S = 20
LARGEST_ANSWER_BYTES = 64 * 1024 * 1024
MOST_REDIRECTS = 3
PERMANENT = (301, 308)
REDIRECTS = (*PERMANENT, 302, 307)
CHUNK = 65_536

# At DEBUG, PyGithub logs answers, and one kind of answer is a token.
logging.getLogger("github").setLevel(logging.INFO)


@dataclass(frozen=True)
class Reply:
    """An answer of GitHub: names of headers in small letters, and parsed JSON."""

    status: int
    headers: dict[str, str]
    data: Any
    is_about_token: bool = False  # it answers the request for an installation's token, which comes before

    @property
    def message(self) -> str:
        """What GitHub says of a refusal, with its list of errors."""
        if not isinstance(self.data, dict):
            return ""
        errors = self.data.get("errors")
        listed = json.dumps(errors) if errors else ""
        return f"{self.data.get('message') or ''} {listed}".strip()


def send(
    requester: Requester,
    connection: Connection,
    verb: str,
    path: str,
    *,
    parameters: Mapping[str, Any] | None = None,
    given: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Send a request and return the answer, whatever its status. Raises GitHubError if there is none."""
    wanted = {"Accept": "application/vnd.github+json", **(headers or {})}
    try:
        status, answered, text = requester.requestJson(
            verb,
            path,
            dict(parameters or {}),
            wanted,
            None if given is None else dict(given),
            cast(Any, connection),
        )
    except GithubException as error:
        return Reply(error.status, _small(error.headers or {}), error.data, is_about_token=True)
    except requests.RequestException as error:
        raise GitHubError(f"GitHub could not be reached ({verb} {path}): {type(error).__name__}.") from None
    return Reply(status, _small(answered), _parsed(text, status, f"{verb} {path}"))


def _small(headers: Mapping[str, Any]) -> dict[str, str]:
    return {name.lower(): str(value) for name, value in headers.items()}


def _parsed(text: str, status: int, what: str) -> Any:
    if not text:
        return None
    try:
        return json.loads(text)
    except ValueError:
        if status >= 400:
            return None  # a proxy's page in the place of GitHub's answer
        raise GitHubError(f"GitHub's answer is not JSON ({what}).") from None


@dataclass(frozen=True)
class Received:
    """An answer in the form that PyGithub reads."""

    status: int
    headers: CaseInsensitiveDict[str]
    text: str

    def getheaders(self) -> ItemsView[str, str]:
        return self.headers.items()

    def read(self) -> str:
        return self.text


class Connection:
    """A connection as PyGithub's requester expects it. Redirects stay on the same server and keep their query."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        self.host = parts.hostname or ""
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._session = requests.Session()
        self._session.auth = Requester.noopAuth  # else .netrc is read
        self._pending: tuple[str, str, Any, dict[str, str]] = ("GET", "/", None, {})

    def request(self, verb: str, url: str, given: Any, headers: dict[str, str], stream: bool = False) -> None:
        """Note what is to be sent; `getresponse` sends it."""
        del stream
        self._pending = (verb, url, given, headers)

    def getresponse(self) -> Received:
        """Send, follow redirects of a moved repository, and read the answer."""
        verb, path, given, headers = self._pending
        url = f"{self._origin}{path}"
        for _ in range(MOST_REDIRECTS + 1):
            answer = self._session.request(
                verb, url, data=given, headers=headers, timeout=TIMEOUT_S, allow_redirects=False, stream=True
            )
            with answer:
                if answer.status_code in REDIRECTS and (target := answer.headers.get("Location")):
                    url = self._allowed(urljoin(url, target))
                    continue
                return self._received(verb, path, answer)
        raise GitHubError(f"GitHub redirects without end ({verb} {path.partition('?')[0]}).")

    def close(self) -> None:
        """Close what is open."""
        self._session.close()

    def _allowed(self, url: str) -> str:
        parts = urlsplit(url)
        if f"{parts.scheme}://{parts.netloc}" != self._origin:
            raise GitHubError("GitHub redirects to another server, where the App's token is not sent.")
        return url

    def _received(self, verb: str, path: str, answer: requests.Response) -> Received:
        parts, size = [], 0
        for piece in answer.iter_content(CHUNK):
            size += len(piece)
            if size > LARGEST_ANSWER_BYTES:
                raise GitHubError(f"GitHub's answer is too large ({verb} {path.partition('?')[0]}).")
            parts.append(piece)
        if answer.status_code == 202 and verb == "GET":
            raise GitHubError("GitHub is still computing the answer.")
        return Received(answer.status_code, answer.headers, b"".join(parts).decode(errors="replace"))
