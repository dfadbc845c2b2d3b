"""Speaks with the site: sends heartbeats, reads which nodes to run, fetches trees, posts keys and canaries' documents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.canary.order import CanaryOrder
from benchmarks.confined_node.folders import BERTHS
from benchmarks.patch.blobs import sha256_hex
from gainshare.capacity.agent.exchange import Asker, Direct, Question, TooLong, Unanswered
from gainshare.capacity.agent.protocol import HEARTBEAT_PATH, HEARTBEAT_S, MAX_DEVICES, Heartbeat, NodeOrder

STEP_S = 5.0
TRANSFER_S = 120.0  # for one file or document in all
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
    """The site refuses what was sent or asked for; the message says why, and what to do. ``status`` is 0 for a limit of ours."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Answer:
    """What the site wants: all nodes that should run here, the canary if any, and when to speak again."""

    nodes: tuple[NodeOrder, ...]
    interval_s: float
    canary: CanaryOrder | None = None


def new_asker() -> Direct:
    """What asks the site."""
    return Direct(step_s=STEP_S, limit_s=TRANSFER_S, by_environment=True)


class Site:
    """The site behind an address. The token is read again after it was refused, so that it can be renewed."""

    def __init__(self, asker: Asker, url: str, token_file: Path) -> None:
        self._asker, self._url, self._token_file = asker, url, token_file
        self._token = ""

    async def send(self, beat: Heartbeat) -> Answer:
        """Raises SiteAbsent, TokenRefused, Dismissed or Refusal."""
        return _answer(await self.post(HEARTBEAT_PATH, beat.to_json()))

    async def post(self, path: str, document: Mapping[str, Any]) -> bytes:
        """Send a document and return the answer's body. Raises SiteAbsent, TokenRefused, Dismissed or Refusal."""
        return await self._ask("POST", path, MAX_BYTES, json.dumps(document).encode())

    async def get(self, path: str, most_bytes: int) -> bytes:
        """The bytes at a path. Raises SiteAbsent, TokenRefused, Dismissed, or Refusal also for more than `most_bytes`."""
        return await self._ask("GET", path, most_bytes)

    @property
    def token_digest(self) -> str:
        """Names the token in use, and does not tell it. Raises TokenRefused where it cannot be read."""
        return sha256_hex(self._read_token().encode())

    async def _ask(self, method: str, path: str, most_bytes: int, content: bytes | None = None) -> bytes:
        question = Question(method, self._url + path, self._read_token(), most_bytes, content)
        try:
            status, body = await self._asker.ask(question)
        except TooLong:
            raise Refusal(f"the site's answer at {path} is longer than {most_bytes} bytes") from None
        except Unanswered as error:
            raise SiteAbsent(str(error)) from None
        if status in (200, 201, 202, 204):
            return body
        code, message = _error(body)
        if status == 401:
            self._token = ""
            raise TokenRefused(message)
        if status == 409 and code in ENDING:
            raise Dismissed(message)
        if status in (400, 403, 404, 405, 409, 410, 413, 415, 422):
            raise Refusal(f"{message} ({status} {code})", status)
        raise SiteAbsent(f"the site answered {status}")

    def _read_token(self) -> str:
        try:
            self._token = self._token or self._token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise TokenRefused(f"the token file {self._token_file} cannot be read: {error}") from None
        return self._token


def _answer(body: bytes) -> Answer:
    try:
        document = json.loads(body)
        nodes = tuple(NodeOrder.from_json(row) for row in document["nodes"])
        interval_s = float(document.get("interval_s", HEARTBEAT_S))
        asked = document.get("canary")
        canary = None if asked is None else CanaryOrder.from_json(asked)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SiteAbsent(f"the site's answer cannot be read: {error}"[:200]) from None
    berths = {(node.device, node.berth) for node in nodes}
    if len(nodes) > BERTHS * MAX_DEVICES or len(berths) < len(nodes):
        raise SiteAbsent("the site's answer names a berth of a device twice, or too many")
    return Answer(nodes, min(max(interval_s, 0.1), LONGEST_INTERVAL_S), canary)


def _error(body: bytes) -> tuple[str, str]:
    try:
        error: Any = json.loads(body)["error"]
        return str(error["code"])[:60], str(error["message"])[:300]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "unknown", "the site gave no reason"
