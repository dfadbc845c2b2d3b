"""A worker that lost an acknowledgement ends; nothing else that is logged ends it."""

import inspect
import subprocess
import sys

import celery.worker.request
import kombu.message
import pytest

from benchmarks.runner.lost_broker import ACK_LOGGER, EXIT_STATUS, LOST_ACK

PROGRAM = """
import logging
from benchmarks.runner.lost_broker import end_worker_on_lost_ack
end_worker_on_lost_ack(); end_worker_on_lost_ack()
logging.getLogger({name!r}).critical({message!r}, "tag", "gone")
print("went on")
"""


def log_in_a_process(name: str, message: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-c", PROGRAM.format(name=name, message=message)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_a_lost_acknowledgement_ends_the_process() -> None:
    done = log_in_a_process(ACK_LOGGER, "Couldn't ack %r, reason:%r")
    assert done.returncode == EXIT_STATUS
    assert "went on" not in done.stdout
    assert "Couldn't ack 'tag'" in done.stderr


@pytest.mark.parametrize(
    ("name", "message"), [(ACK_LOGGER, "Something else %r %r"), ("celery.worker", "Couldn't ack %r %r")]
)
def test_other_messages_and_loggers_do_not(name: str, message: str) -> None:
    assert "went on" in log_in_a_process(name, message).stdout


def test_celery_still_logs_it_there_and_so() -> None:
    assert celery.worker.request.logger.name == ACK_LOGGER
    assert LOST_ACK in inspect.getsource(kombu.message.Message.ack_log_error)
