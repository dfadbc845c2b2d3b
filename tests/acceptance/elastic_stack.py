"""An elastic stack for tests: its nodes as the database has them, their devices, and what scaling decided."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg import Connection

from gainshare.capacity.agent.devices import Device
from gainshare.cli.client import Site
from tests.acceptance.elastic_load import CUT, FAILED, Load
from tests.acceptance.running_stack import Stack

MODEL = "tiny"
NODES = """
    SELECT n.id::text, h.name, c.name, n.device, n.state, n.hung_at IS NOT NULL
    FROM capacity_node n JOIN capacity_host h ON h.id = n.host_id JOIN capacity_deviceclass c ON c.id = h.device_class_id
    WHERE n.state <> 'ended' ORDER BY n.created_at
"""


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node that has not ended."""

    id: str
    host: str
    device_class: str
    device: int
    state: str
    is_hung: bool


class Pool:
    """The stack's pool. `folders` are those of the agents, by host."""

    def __init__(self, stack: Stack, folders: dict[str, Path]) -> None:
        self.stack = stack
        self.site = Site(stack.url, stack.key)
        self.folders = folders

    def nodes(self, state: str = "") -> list[NodeRow]:
        with self.stack.database() as connection:
            rows = [NodeRow(*row) for row in connection.execute(NODES).fetchall()]
        return [row for row in rows if not state or row.state == state]

    def ready(self) -> list[NodeRow]:
        """Nodes that answer requests."""
        return [row for row in self.nodes("ready") if not row.is_hung]

    def device_of(self, node: NodeRow) -> Device:
        return Device(node.device, self.folders[node.host] / "devices" / str(node.device))

    def serve(self, **fields: Any) -> None:
        """Change the served model."""
        self.site.request("PATCH", f"capacity/models/{MODEL}/", json=fields)

    def decisions(self) -> list[dict[str, Any]]:
        """All decisions that changed something, oldest first."""
        found: list[dict[str, Any]] = self.site.get("capacity/decisions/", limit=500, is_change="true")[
            "results"
        ]
        return found[::-1]

    def state(self) -> str:
        """For a failed test: the nodes, and what scaling last thought."""
        served = self.site.get(f"capacity/models/{MODEL}/")
        last = [row["reason"] for row in self.decisions()[-3:]]
        return f"nodes {self.nodes()}; wanted {served['wanted']}: {served['reason']}; {served['problem']}; last {last}"


def node_of(connection: Connection[Any], request_id: str) -> str:
    """The id of the node that answers a request now; empty: it has ended."""
    row = connection.execute("SELECT node FROM capacity_seat WHERE request_id = %s", [request_id]).fetchone()
    return str(row[0]) if row else ""


def assert_every_request_is_accounted_for(pool: Pool, load: Load) -> None:
    """None failed without a token; each cut one is counted, ended with the documented error, and billed for what came."""
    assert load.of_kind(FAILED) == []
    cut = load.of_kind(CUT)
    with pool.stack.database() as connection:
        rows = connection.execute(
            "SELECT request_id::text, error_code, completion_tokens, charged_microcredits, settled_at IS NOT NULL "
            "FROM gateway_usagerecord WHERE status = 'failed'"
        ).fetchall()
        unsettled = connection.execute("SELECT count(*) FROM ledger_hold WHERE state = 'open'").fetchone()
    failed = {row[0]: row[1:] for row in rows}
    assert set(failed) == {outcome.request_id for outcome in cut}
    for outcome in cut:
        code, tokens, charged, is_settled = failed[outcome.request_id]
        assert outcome.code == code == "node_failed", outcome
        assert tokens >= max(outcome.tokens, 1) and charged > 0 and is_settled, (
            outcome,
            failed[outcome.request_id],
        )
    assert unsettled == (0,)
    broken = [row for row in pool.site.get("audit/")["invariants"] if not row["holds"]]
    assert broken == []


def assert_decisions_have_reasons(pool: Pool) -> None:
    """Each decision says why, and what it was made from."""
    decisions = pool.decisions()
    assert decisions
    for decision in decisions:
        assert decision["reason"] and decision["inputs"]["load"] is not None, decision
    changed = [row for row in decisions if row["before"] != row["wanted"] and row["policy"] != "manual"]
    assert any(row["reason"].startswith("+") for row in changed), [row["reason"] for row in decisions]
    assert any(row["reason"].startswith("-") for row in changed), [row["reason"] for row in decisions]
