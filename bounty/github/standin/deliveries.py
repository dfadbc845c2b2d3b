"""Webhook deliveries: signed, sent in order, and by wish lost, doubled or shuffled."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import queue
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bounty.github.standin.shapes.links import stamp

if TYPE_CHECKING:
    from bounty.github.standin.state import State

TIMEOUT_S = 10.0
OK_FROM, OK_BELOW = 200, 400
NOT_REACHED = 502


@dataclass(eq=False)
class Delivery:
    """One attempt to deliver an event. Attempts of the same event share ``guid``."""

    number: int
    guid: str
    event: str
    action: str
    body: bytes
    installation_id: int
    repository_id: int | None
    made_at: datetime
    is_redelivery: bool = False
    status: int = 0  # of the receiver's answer; 0 before it is sent
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def payload(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.body)
        return loaded

    def summary(self) -> dict[str, Any]:
        """As GET /app/hook/deliveries shows it."""
        return {
            "id": self.number,
            "guid": self.guid,
            "delivered_at": stamp(self.made_at),
            "redelivery": self.is_redelivery,
            "duration": 0.01,
            "status": "OK" if OK_FROM <= self.status < OK_BELOW else f"Invalid HTTP Response: {self.status}",
            "status_code": self.status,
            "event": self.event,
            "action": self.action or None,
            "installation_id": self.installation_id,
            "repository_id": self.repository_id,
            "throttled_at": None,
        }


class Deliveries:
    """The App's webhook. Without an address events are kept and not sent; ``all`` has every one in order."""

    def __init__(self, state: State) -> None:
        self.all: list[Delivery] = []
        self._state = state
        self._is_held = False
        self._held: list[Delivery] = []
        self._queue: queue.SimpleQueue[Delivery | None] = queue.SimpleQueue()
        self._under_way = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def emit(
        self,
        event: str,
        action: str,
        payload: dict[str, Any],
        installation_id: int,
        repository_id: int | None,
    ) -> None:
        """Take an event and send it, unless deliveries are held."""
        delivery = Delivery(
            self._state.number("delivery"), str(uuid.uuid4()), event, action,
            json.dumps(payload, separators=(",", ":")).encode(), installation_id, repository_id, self._state.now(),
        )  # fmt: skip
        delivery.headers = self.signed_headers(delivery)
        self.all.append(delivery)
        if self._is_held:
            self._held.append(delivery)
        else:
            self.send([delivery])

    def signed_headers(self, delivery: Delivery) -> dict[str, str]:
        """The request's headers, signed with the App's present secret."""
        app = self._state.app
        assert app is not None
        secret = app.webhook_secret.encode()
        signed = {
            f"X-Hub-Signature{suffix}": f"{name}={hmac.new(secret, delivery.body, name).hexdigest()}"
            for suffix, name in (("-256", "sha256"), ("", "sha1"))
        }
        return {
            "Accept": "*/*",
            "Content-Type": "application/json",
            "User-Agent": f"GitHub-Hookshot/{hashlib.sha256(self._state.url.encode()).hexdigest()[:7]}",
            "X-GitHub-Delivery": delivery.guid,
            "X-GitHub-Event": delivery.event,
            "X-GitHub-Hook-ID": str(app.github_id),
            "X-GitHub-Hook-Installation-Target-ID": str(app.github_id),
            "X-GitHub-Hook-Installation-Target-Type": "integration",
            **signed,
        }

    def hold(self) -> None:
        """Keep events back until `release`."""
        self._is_held = True

    def release(
        self,
        *,
        seed: int = 0,
        is_shuffled: bool = False,
        lost: float = 0.0,
        doubled: float = 0.0,
        is_lost: Callable[[Delivery], bool] | None = None,
    ) -> list[Delivery]:
        """Send what was held; which parts are lost and doubled, and the order, follow from the seed.

        Returns what was lost: it counts as delivered in vain, and can be redelivered.
        """
        chance = random.Random(seed)
        held, self._held, self._is_held = self._held, [], False
        dropped = [row for row in held if chance.random() < lost or (is_lost is not None and is_lost(row))]
        for row in dropped:
            row.status = NOT_REACHED
        sent = [row for row in held if row not in dropped]
        sent += [row for row in sent if chance.random() < doubled]
        if is_shuffled:
            chance.shuffle(sent)
        self.send(sent)
        return dropped

    def send(self, deliveries: Iterable[Delivery]) -> None:
        """Queue deliveries for sending, in this order."""
        app = self._state.app
        if app is None or not app.hook_url:
            return
        for delivery in deliveries:
            with self._changed:
                self._under_way += 1
            self._queue.put(delivery)
        self._start()

    def redeliver(self, number: int) -> bool:
        """Send a delivery again under the same guid; False if there is none of that number."""
        found = next((row for row in self.all if row.number == number), None)
        if found is None:
            return False
        again = Delivery(
            self._state.number("delivery"), found.guid, found.event, found.action, found.body,
            found.installation_id, found.repository_id, self._state.now(), is_redelivery=True,
        )  # fmt: skip
        again.headers = self.signed_headers(again)
        self.all.append(again)
        self.send([again])
        return True

    def listed(self) -> list[Delivery]:
        """Deliveries that were sent or lost, newest first."""
        return [row for row in reversed(self.all) if row.status]

    def settle(self, timeout_s: float = 60.0) -> None:
        """Wait until nothing is under way. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._under_way:
                if not self._changed.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"{self._under_way} deliveries are still under way")

    def close(self) -> None:
        """End the sender after what it is sending now."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(TIMEOUT_S + 5)
            self._thread = None

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while (delivery := self._queue.get()) is not None:
            try:
                delivery.status = self._post(delivery)
            finally:
                with self._changed:
                    self._under_way -= 1
                    self._changed.notify_all()

    def _post(self, delivery: Delivery) -> int:
        app = self._state.app
        assert app is not None
        parts = urlsplit(app.hook_url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=TIMEOUT_S)
        try:
            connection.request("POST", parts.path or "/", delivery.body, delivery.headers)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return NOT_REACHED
        finally:
            connection.close()
