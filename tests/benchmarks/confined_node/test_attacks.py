"""Hostile code in a served tree: a node is started as production starts it, and everything it tries is contained."""

from __future__ import annotations

import pytest

from benchmarks.confined_node.selftest import NODE_FAMILIES, attack_node
from benchmarks.sandbox import Attack, SandboxLevel, best_level, levels_here
from tests.benchmarks.sandbox.sandbox_levels import level_or_skip

pytestmark = [pytest.mark.sandbox, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def attacks() -> list[Attack]:
    return attack_node(level_or_skip("best"))


def test_every_attack_is_contained(attacks: list[Attack]) -> None:
    assert [attack for attack in attacks if not attack.contained] == []


def test_every_kind_of_attack_was_tried(attacks: list[Attack]) -> None:
    assert len(attacks) >= 80
    families = {attack.name.split(".")[1] for attack in attacks}
    assert families == {*NODE_FAMILIES, "host", "memory_bomb"}
    for name in ("network.packets_outside", "network.socket_file", "processes.signal_host_process"):
        assert f"node.{name}" in {attack.name for attack in attacks}


def test_attacks_find_what_is_in_reach() -> None:
    """With the planted secrets mounted, the attacks on files report them; so silence means that they are not there."""
    attacks = attack_node(level_or_skip("best"), exposed=True)
    found = {attack.name for attack in attacks if not attack.contained}
    assert {"node.filesystem.host_files", "node.filesystem.host_folders"} <= found


@pytest.mark.long
def test_every_attack_is_contained_at_the_other_levels() -> None:
    others = [
        level
        for level, problem in levels_here().items()
        if problem is None and level not in (best_level(), SandboxLevel.NONE)
    ]
    for level in others:
        assert [attack for attack in attack_node(level) if not attack.contained] == []
