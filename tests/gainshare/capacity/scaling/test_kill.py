"""kill -9 of a pass at every fault point: nothing is ordered twice for one need, and nothing is forgotten."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gainshare.capacity.models import Decision, Node, NodeState, ScalingState, ServedModel
from tests.gainshare.capacity.scaling.scaling_world import live, make_class, make_host, make_ready, serve
from tests.gainshare.ledger.test_kill import ROOT, environment

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

FAULTS = [
    "capacity.scaling.decided",
    "capacity.order.after_insert",
    "capacity.scaling.carried_out",
    "capacity.scaling.recorded",
]


def pass_in_process(served: ServedModel, *, fault: str, folder: Path) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "tests.gainshare.capacity.scaling.scaling_process", str(served.pk)],
        cwd=ROOT,
        env=environment(GAINSHARE_FAULT=fault, GAINSHARE_FAULT_DIR=str(folder)),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode


@pytest.mark.parametrize("fault", FAULTS)
def test_a_pass_that_was_killed_is_repeated_without_a_second_order(tmp_path: Path, fault: str) -> None:
    served = serve(make_host(make_class(), devices=8).device_class, fixed_nodes=3)
    assert pass_in_process(served, fault=fault, folder=tmp_path) == -signal.SIGKILL
    assert (Node.objects.count(), Decision.objects.count(), ScalingState.objects.count()) == (0, 0, 0)
    assert pass_in_process(served, fault=fault, folder=tmp_path) == 0
    assert pass_in_process(served, fault=fault, folder=tmp_path) == 0
    assert len(live()) == 3 and Decision.objects.count() == 1


@pytest.mark.parametrize(
    "fault", ["capacity.scaling.decided", "capacity.drain.after_update", "capacity.scaling.recorded"]
)
def test_a_drain_that_was_killed_is_repeated_and_drains_no_second_node(tmp_path: Path, fault: str) -> None:
    served = serve(make_host(make_class(), devices=8).device_class, fixed_nodes=3)
    assert pass_in_process(served, fault="none", folder=tmp_path) == 0
    make_ready(*live())
    ServedModel.objects.update(fixed_nodes=2)
    assert pass_in_process(served, fault=fault, folder=tmp_path) == -signal.SIGKILL
    assert len(live(NodeState.READY)) == 3
    assert pass_in_process(served, fault=fault, folder=tmp_path) == 0
    assert pass_in_process(served, fault=fault, folder=tmp_path) == 0
    assert (len(live(NodeState.READY)), len(live(NodeState.DRAINING))) == (2, 1)
