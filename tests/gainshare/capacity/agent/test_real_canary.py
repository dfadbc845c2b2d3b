"""A real agent runs the real canary: two trees from a site, clocked in sandboxes, and a document that the site can check."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.canary.verify import verify_canary
from benchmarks.evidence.signing import key_id
from tests.gainshare.capacity.agent.agent_world import AgentProcess, eventually
from tests.gainshare.capacity.agent.canary_world import offer_trees, order_of
from tests.gainshare.capacity.agent.fake_site import TOKEN, FakeSite

pytestmark = [pytest.mark.sandbox, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1800)]


def test_what_an_agents_canary_found_is_signed_by_its_host_and_answers_the_order(
    site: FakeSite, open_folder: Path, tmp_path: Path
) -> None:
    agent = AgentProcess(site.url, open_folder, TOKEN)
    try:
        agent.start()
        eventually(lambda: site.known_key, agent.said, 60)
        site.canary = order = order_of(*offer_trees(site, tmp_path))
        eventually(lambda: site.results, agent.said, 1500)
        ((posted, body),) = site.results
        assert posted == str(order.id) and "document" in body, body
        trusted = {key_id(site.known_key): site.known_key}
        report = verify_canary(body["document"], trusted_keys=trusted, nonce=order.nonce, order=order)
        assert report.ok and all(check.holds for check in report.checks), report
        eventually(lambda: site.beats[-1]["canary"] is None, agent.said, 60)
        assert not list((agent.home / "canary").glob("canary-*"))
    finally:
        agent.close()
