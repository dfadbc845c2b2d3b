"""Pure parts of the agent: a node's state by its answers, its load from hostile figures, orders that are refused."""

import json
import math
import shutil
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from benchmarks.confined_node.memory import default_memory_bytes
from benchmarks.sandbox.levels import GIB
from gainshare.capacity.agent.devices import Device, devices_in
from gainshare.capacity.agent.options import AgentOptions, parse_options
from gainshare.capacity.agent.probing import load_from
from gainshare.capacity.agent.protocol import HUNG, MAX_REQUESTS, READY, STARTING, Load, NodeOrder
from gainshare.capacity.agent.records import Record, read_record, write_private, write_record
from gainshare.capacity.agent.starting import (
    Refused,
    check_order,
    command,
    environment,
    free_port,
    node_memory_gib,
    remove_state,
)
from gainshare.capacity.agent.watching import Probe, Watch

OPTIONS = AgentOptions("http://site", Path("token"), Path("folder"))
FINE = Probe(is_ready=True, load=Load(1, 2, 0.5))


def test_a_drain_that_the_days_budget_does_not_pay_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    own = ["--url", "http://site", "--token-file", "token", "--folder", "folder", "--drain-s"]
    assert parse_options([*own, "120"]).drain_s == 120
    with pytest.raises(SystemExit):
        parse_options([*own, "121"])
    assert "--drain-s may be 120 at most" in capsys.readouterr().err


def test_a_node_is_starting_until_it_is_ready() -> None:
    watch = Watch(0.0)
    watch.note(5.0, None)
    watch.note(6.0, Probe(is_ready=False))
    assert watch.state(500.0, OPTIONS) == STARTING and watch.verdict(500.0, OPTIONS) == ""
    watch.note(501.0, FINE)
    assert watch.state(501.0, OPTIONS) == READY and watch.load == Load(1, 2, 0.5)


def test_a_node_that_is_never_ready_is_ended() -> None:
    watch = Watch(0.0)
    watch.note(599.0, Probe(is_ready=False))
    assert "not ready after 600 s" in watch.verdict(600.5, OPTIONS)


def test_a_silent_node_is_hung_within_seconds_and_back_with_its_answer() -> None:
    watch = Watch(0.0)
    watch.note(1.0, FINE)
    assert watch.state(6.0, OPTIONS) == READY
    watch.note(6.0, None)
    assert watch.state(6.1, OPTIONS) == HUNG and watch.verdict(6.1, OPTIONS) == ""
    watch.note(7.0, FINE)
    assert watch.state(7.1, OPTIONS) == READY
    assert "answered nothing for 60 s" in watch.verdict(67.5, OPTIONS)


def test_a_node_whose_engine_has_ended_is_ended() -> None:
    watch = Watch(0.0)
    watch.note(1.0, FINE)
    watch.note(2.0, Probe(is_ready=False, is_failed=True))
    assert "engine" in watch.verdict(2.0, OPTIONS)


@pytest.mark.parametrize(
    ("stats", "load"),
    [
        ({"running": 3, "waiting": 1, "kv_blocks": 10, "kv_blocks_held": 5}, Load(3, 1, 0.5)),
        ({}, Load()),
        ({"running": -5, "waiting": math.nan, "kv_blocks": math.inf, "kv_blocks_held": 5}, Load()),
        (
            {"running": 10**400, "waiting": True, "kv_blocks": 1, "kv_blocks_held": 10**9},
            Load(MAX_REQUESTS, 0, 1.0),
        ),
        ({"running": "9", "waiting": [1], "kv_blocks": 0, "kv_blocks_held": 4}, Load()),
    ],
    ids=["usual", "missing", "not finite", "huge", "of other types"],
)
def test_a_load_is_within_its_bounds_whatever_a_node_says(stats: dict[str, Any], load: Load) -> None:
    assert load_from(stats) == load


def order_of(model: str, tree: str = "") -> NodeOrder:
    return NodeOrder(uuid4(), 0, model, tree, "secret", is_draining=False)


@pytest.mark.parametrize(
    "model", ["../x", "/etc", "a/b", "-x", "--upstream=http://x", ".hidden", "a..b", "", "a\0b", "a b", "x" * 200, "missing"]
)  # fmt: skip
def test_a_model_is_a_name_in_the_store(model: str, tmp_path: Path) -> None:
    (tmp_path / "store/known").mkdir(parents=True)
    (tmp_path / "x").mkdir()
    with pytest.raises(Refused):
        check_order(order_of(model), tmp_path / "store")


def test_known_models_and_the_built_in_one_are_taken_with_the_installed_tree_only(tmp_path: Path) -> None:
    (tmp_path / "known").mkdir()
    check_order(order_of("known"), tmp_path)
    check_order(order_of("tiny"), None)
    check_order(order_of("tiny", "ab" * 32), tmp_path)
    with pytest.raises(Refused, match="installed tree only"):
        check_order(order_of("tiny", "ab" * 32), tmp_path, "none")
    for tree in ("../installed", "installed", "AB" * 32, "ab" * 33):
        with pytest.raises(Refused, match="no hash"):
            check_order(order_of("tiny", tree), tmp_path)


def test_the_token_is_on_no_command_line_and_in_no_repr(tmp_path: Path) -> None:
    order, device = order_of("tiny"), Device(3, tmp_path)
    words = command(order, device, OPTIONS, 8200)
    assert not any("secret" in word for word in words) and "secret" not in repr(order)
    assert words[words.index("--seat") + 1] == "3"


def test_each_device_sees_one_gpu(tmp_path: Path) -> None:
    cuda = AgentOptions("http://site", Path("t"), tmp_path, devices=2, kind="cuda")
    assert environment(1, cuda, {})["CUDA_VISIBLE_DEVICES"] == "1"
    assert environment(1, cuda, {"CUDA_VISIBLE_DEVICES": "4,6"})["CUDA_VISIBLE_DEVICES"] == "6"
    assert "CUDA_VISIBLE_DEVICES" not in environment(1, OPTIONS, {})


def test_a_range_of_ports_without_a_free_one_is_said(free_tcp: int) -> None:
    assert free_port("127.0.0.1", (0, 0)) > 1023
    with pytest.raises(Refused, match="no port"):
        free_port("127.0.0.1", (free_tcp, free_tcp))


@pytest.fixture
def free_tcp() -> Any:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


def test_a_record_is_read_as_it_was_written_and_a_damaged_one_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    record = Record(uuid4(), "tiny", 8200, "ab" * 32)
    write_record(file, record)
    assert read_record(file) == record
    file.write_text(
        json.dumps({"node": str(record.node), "model": "tiny", "port": 1})
    )  # before there were trees
    assert read_record(file) == Record(record.node, "tiny", 1)
    for damaged in ("", "{", "[]", '{"node": "x"}', "null"):
        file.write_text(damaged)
        assert read_record(file) is None
    write_private(file, "secret")
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_a_lock_is_held_until_its_last_descriptor_is_closed(tmp_path: Path) -> None:
    device = Device(0, tmp_path)
    with device.taken() as held:
        assert held is not None
        with device.taken() as second:
            assert second is None
        assert not device.is_free()
    assert device.is_free()


def test_devices_of_an_earlier_start_are_known(tmp_path: Path) -> None:
    (tmp_path / "devices/5").mkdir(parents=True)
    (tmp_path / "devices/x").mkdir()
    found = devices_in(tmp_path, 2)
    assert [device.key for device in found] == [(number, berth) for number in (0, 1, 5) for berth in (0, 1)]
    assert found[0].folder == tmp_path / "devices/0"  # where agents before two berths had their node
    assert len({device.folder for device in found}) == len({device.seat for device in found}) == 6


def test_two_nodes_on_each_device_and_a_canary_fit_into_memory() -> None:
    for devices in (1, 2, 8):
        options = AgentOptions("http://site", Path("t"), Path("f"), devices=devices)
        one_bytes = node_memory_gib(options) * GIB
        assert one_bytes * (2 * devices + 2) <= default_memory_bytes() * 1.001
    assert node_memory_gib(AgentOptions("http://site", Path("t"), Path("f"), memory_gib=3.0)) == 3.0


def test_only_installed_code_finds_what_installed_code_kept(tmp_path: Path) -> None:
    """A deployed tree could leave code, or what users asked, for the next node."""
    device = Device(0, tmp_path)
    for before, after, is_kept in (("", "", True), ("", "a", False), ("a", "", False), ("a", "a", False)):
        (device.node / "state").mkdir(parents=True)
        write_record(device.record, Record(uuid4(), "tiny", 8200, before))
        remove_state(order_of("tiny", after), device)
        assert device.node.exists() == is_kept
        shutil.rmtree(device.node, ignore_errors=True)


@pytest.mark.parametrize(
    "wrong",
    [
        ["--url", "ftp://x"],
        ["--devices", "0"],
        ["--devices", "17"],
        ["--ports", "80-90"],
        ["--ports", "9000-8000"],
        ["--hung-s", "nan"],
        ["--", "--upstream", "http://x"],
    ],
    ids=str,
)
def test_options_that_cannot_work_end_with_status_2(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--url", "https://site", "--token-file", "t", "--folder", "f"]
    assert parse_options(given).url == "https://site"
    with pytest.raises(SystemExit) as end:
        parse_options([*given, *wrong])
    assert end.value.code == 2 and capsys.readouterr().err


def test_a_device_whose_folder_cannot_be_used_is_not_free(tmp_path: Path) -> None:
    (tmp_path / "0").write_text("a file")
    device = Device(0, tmp_path / "0")
    assert device.is_held() and not device.is_free()
