"""Speaks with the site: sends a heartbeat, and reads which nodes to run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from gainshare.capacity.agent.protocol import HEARTBEAT_PATH, HEARTBEAT_S, MAX_DEVICES, Heartbeat, NodeOrder

TIMEOUT_S = 5.0
MAX_BYTES = 256 * 1024
LONGEST_INTERVAL_S = 60.0
ENDING = ("superseded", "revoked")  # codes after which this agent has no host any more


class SiteAbsent(Exception):
    """The site does not answer, or fails: its orders stay as they were."""


class TokenRefused(Exception):
    """The site does not know the host's token, or no longer."""


class Dismissed(Exception):
    """The site says that this agent speaks for no host any more: it ends its nodes and itself."""


class Refusal(Exception):
    """The site refuses the heartbeat; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the site wants: all nodes that should run here, and when to speak again."""

    nodes: tuple[NodeOrder, ...]
    interval_s: float


class Site:
    """The site behind an address. The token is read again after it was refused, so that it can be renewed."""

    def __init__(self, url: str, token_file: Path) -> None:
        self._url, self._token_file = url, token_file
        self._token = ""
        self._http = httpx.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False)

    async def send(self, beat: Heartbeat) -> Answer:
        """Raises SiteAbsent, TokenRefused, Dismissed or Refusal."""
        status, body = await self._post(json.dumps(beat.to_json()))
        if status == 200:
            return _answer(body)
        code, message = _error(body)
        if status == 401:
            self._token = ""
            raise TokenRefused(message)
        if status == 409 and code in ENDING:
            raise Dismissed(message)
        if status in (400, 403, 404, 409, 413, 415, 422):
            raise Refusal(f"{message} ({status} {code})")
        raise SiteAbsent(f"the site answered {status}")

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _post(self, content: str) -> tuple[int, bytes]:
        try:
            self._token = self._token or self._token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise TokenRefused(f"the token file {self._token_file} cannot be read: {error}") from None
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        try:
            url = self._url + HEARTBEAT_PATH
            async with self._http.stream("POST", url, content=content, headers=headers) as answer:
                body = b""
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise SiteAbsent("the site's answer is too long")
                return answer.status_code, body
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            raise SiteAbsent(f"{type(error).__name__}: {error}"[:200]) from None


def _answer(body: bytes) -> Answer:
    try:
        document = json.loads(body)
        nodes = tuple(NodeOrder.from_json(row) for row in document["nodes"])
        interval_s = float(document.get("interval_s", HEARTBEAT_S))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SiteAbsent(f"the site's answer cannot be read: {error}"[:200]) from None
    if len(nodes) > MAX_DEVICES or len({node.device for node in nodes}) < len(nodes):
        raise SiteAbsent("the site's answer names a device twice, or too many")
    return Answer(nodes, min(max(interval_s, 0.1), LONGEST_INTERVAL_S))


def _error(body: bytes) -> tuple[str, str]:
    try:
        error: Any = json.loads(body)["error"]
        return str(error["code"])[:60], str(error["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return "unknown", "the site gave no reason"
