"""Stack for the gateway's live tests: a separate database, a real model node and a real web process.

The tests' own ORM is pointed at that database, so that they can look at holds and usage records. The model is the
tiny one with random weights: its answers mean nothing, its counters everything.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit
from uuid import UUID, uuid4

import httpx
import openai
from django.db import connection, connections
from django.utils import timezone

from gainshare.accounts.models import User
from gainshare.accounts.services import create_api_key, create_user
from gainshare.gateway.models import UsageRecord
from gainshare.gateway.recompute import recompute
from gainshare.ledger import services as ledger
from gainshare.ledger.audit import audit
from gainshare.ledger.models import Hold
from gainshare.ledger.price_book import publish_price
from gainshare.local.services import web_command

MODEL = "tiny"
CREDIT = 1_000_000
# Micro-credits per million tokens: a token of output costs 4 micro-credits, a fresh one of input 1.
PRICES = {"cached_input": 100_000, "fresh_input": 1_000_000, "output": 4_000_000}
START_S = 240.0  # on a busy machine


def eventually(condition: Callable[[], Any], *, within_s: float = 15.0, what: str = "") -> Any:
    """The first true value of `condition`, asked again and again; fails after `within_s`."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {within_s} s: {what or condition}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Process:
    """A child in a session of its own, with its output in a file."""

    arguments: list[str]
    environment: dict[str, str]
    log: Path
    health: str
    child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as out:
            self.child = subprocess.Popen(
                self.arguments, env=self.environment, stdout=out, stderr=out, start_new_session=True
            )

    def wait_until_ready(self) -> None:
        def is_ready() -> bool:
            assert self.child is not None
            assert self.child.poll() is None, f"ended with {self.child.returncode}:\n{self.tail()}"
            try:
                return httpx.get(self.health, trust_env=False).status_code < 500
            except httpx.TransportError:
                return False

        eventually(is_ready, within_s=START_S, what=f"{self.arguments}: {self.tail()}")

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        assert self.child is not None
        self.child.send_signal(signal.SIGKILL)
        self.child.wait()

    def stop(self) -> None:
        if self.child is not None and self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self.kill()

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""


@dataclass
class Customer:
    """A user with credits and a key."""

    user: User
    key: str
    prefix: str


@dataclass
class GatewayStack:
    """The running processes, and short words for what tests do with them."""

    folder: Path
    web: Process
    node: Process
    base_url: str
    maintainer: User = field(init=False)

    def client(self, key: str, **options: Any) -> openai.OpenAI:
        """The unmodified client; without its retries, so that every refusal is seen."""
        return openai.OpenAI(base_url=f"{self.base_url}/v1", api_key=key, **{"max_retries": 0, **options})

    def customer(self, balance: int = 10 * CREDIT, scopes: list[str] | None = None) -> Customer:
        user = create_user(username=f"user-{uuid4().hex[:10]}", password="a-long-enough-secret")
        if balance:
            ledger.grant_credits(
                transfer_id=uuid4(), user=user, amount_microcredits=balance, source="grant", memo="test"
            )
        key, raw = create_api_key(user=user, name="test", scopes=scopes or ["inference", "read"])
        return Customer(user, raw, key.prefix)

    def record(self, user: User, **fields: Any) -> UsageRecord:
        """The user's only usage record with these fields, once it is settled."""
        return eventually(
            lambda: UsageRecord.objects.filter(user=user, settled_at__isnull=False, **fields).first(),
            what="a settled usage record",
        )

    def wait_until_served(self) -> None:
        """Wait until the gateway reaches its node."""
        client = self.client(self.customer(balance=0).key)

        def is_listed() -> bool:
            try:
                return any(model.id == MODEL for model in client.models.list())
            except openai.InternalServerError:
                return False

        eventually(is_listed, what="the gateway reaches its node")

    def get(self, path: str, key: str) -> Any:
        response = httpx.get(
            f"{self.base_url}{path}", headers={"Authorization": f"Bearer {key}"}, trust_env=False
        )
        return response.json()


def hold_of(record: UsageRecord) -> Hold:
    return Hold.objects.get(pk=record.pk)


def request_id_of(answer: Any) -> UUID:
    """The request's id, from a chunk or an answer: `chatcmpl-<uuid>`."""
    return UUID(answer.id.partition("-")[2])


def assert_ledger_holds() -> None:
    """Every invariant of the ledger, and every charge computed again from its row."""
    broken = [invariant for invariant in audit() if not invariant.holds]
    assert not broken, broken
    assert recompute().differences == ()


def bill_of(prompt_tokens: int, completion_tokens: int) -> int:
    """Cost of fresh input and output at `PRICES`, in micro-credits."""
    return prompt_tokens * PRICES["fresh_input"] // CREDIT + completion_tokens * PRICES["output"] // CREDIT


@contextmanager
def running_stack(folder: Path, **settings: str) -> Iterator[GatewayStack]:
    """A stack with these environment variables on top; everything is ended and dropped at the end."""
    with own_database() as database_url:
        token = secrets.token_urlsafe(16)
        (folder / "token").write_text(token)
        node_port, web_port = free_port(), free_port()
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "DATABASE_URL": database_url,
            "PYTHONPATH": os.pathsep.join(["platform", "."]),
            "GAINSHARE_MODEL_NODES": f"http://127.0.0.1:{node_port}",
            "GAINSHARE_NODE_TOKEN": token,
            "GAINSHARE_FAULT_DIR": str(folder),
            **settings,
        }
        node = Process(
            [
                *(sys.executable, "-m", "model.serving.node", "--model", MODEL, "--port", str(node_port)),
                *("--token-file", str(folder / "token"), "--max-waiting", "200"),
            ],
            environment,
            folder / "node.log",
            f"http://127.0.0.1:{node_port}/health",
        )
        web = Process(
            [
                *web_command("--port", str(web_port), "--log-level", "warning"),
                *("--timeout-graceful-shutdown", "3"),
            ],
            environment,
            folder / "web.log",
            f"http://127.0.0.1:{web_port}/v1/models",
        )
        stack = GatewayStack(folder, web, node, f"http://127.0.0.1:{web_port}")
        try:
            node.start()
            web.start()
            _furnish(stack)
            node.wait_until_ready()
            web.wait_until_ready()
            yield stack
        finally:
            web.stop()
            node.stop()


def _furnish(stack: GatewayStack) -> None:
    stack.maintainer = create_user(username="maintainer", password="a-long-enough-secret", role="maintainer")
    ledger.fund_treasury(
        transfer_id=uuid4(), amount_microcredits=10_000 * CREDIT, memo="test", actor=stack.maintainer
    )
    publish_price(model=MODEL, effective_at=timezone.now(), actor=stack.maintainer, **PRICES)


@contextmanager
def own_database() -> Iterator[str]:
    """A migrated database in addition to the test database, with the ORM connected to it; yields its URL."""
    settings = connections.settings["default"]
    before, name = settings["NAME"], f"gateway_{uuid4().hex[:12]}"
    parts = urlsplit(os.environ["DATABASE_URL"])
    query = urlencode({key: values[-1] for key, values in parse_qs(parts.query).items()}, quote_via=quote)
    url = parts._replace(path=f"/{name}", query=query).geturl()
    try:
        with connection.cursor() as cursor:
            cursor.execute(f'CREATE DATABASE "{name}"')
        connection.close()
        settings["NAME"] = connection.settings_dict["NAME"] = name
        environment = {**os.environ, "DATABASE_URL": url}
        subprocess.run(
            [sys.executable, "manage.py", "migrate", "--verbosity", "0"], env=environment, check=True
        )
        yield url
    finally:
        connection.close()
        settings["NAME"] = connection.settings_dict["NAME"] = before
        with connection.cursor() as cursor:
            cursor.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        connection.close()
