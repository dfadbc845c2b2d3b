"""Ends a Celery worker that could not acknowledge a message, since it would never take another one.

When the broker dies at that very moment, the loop of Celery 5.7 spins on the lost connection forever (known upstream:
celery/celery#8030, #10302). Workers may die at any moment here, and messages are wake-ups that beat repeats: what
supervises the worker starts a new one. Knows of Celery only the name of a logger and what it writes there.
"""

import logging
import os
import sys

ACK_LOGGER = "celery.worker.request"
LOST_ACK = "Couldn't ack"
EXIT_STATUS = 75  # a temporary failure, as sysexits.h has it


class _EndOnLostAck(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if str(record.msg).startswith(LOST_ACK):
            sys.stderr.write(f"{record.getMessage()}: this worker ends, so that a new one connects\n")
            sys.stderr.flush()
            os._exit(EXIT_STATUS)


def end_worker_on_lost_ack() -> None:
    """Make a lost acknowledgement end this process at once. Calling it again changes nothing."""
    logger = logging.getLogger(ACK_LOGGER)
    if not any(isinstance(handler, _EndOnLostAck) for handler in logger.handlers):
        logger.addHandler(_EndOnLostAck(logging.CRITICAL))
