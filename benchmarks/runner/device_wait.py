"""Tells the platform that this runner waits for its device, so that no one takes it for idle.

One thread in addition to the one that waits; a platform that cannot be reached is told later, or not at all.
"""

import logging
import threading

from benchmarks.runner.client import PlatformError, RunnerClient

logger = logging.getLogger(__name__)

EVERY_S = 20.0  # well within what the platform believes after the last word


class DeviceWait:
    """Says so at once and then again and again, while the block runs."""

    def __init__(self, client: RunnerClient, *, every_s: float = EVERY_S) -> None:
        self._client, self._every_s = client, every_s
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._tell, name="device-wait", daemon=True)

    def __enter__(self) -> "DeviceWait":
        logger.info("the device is busy; waiting for it")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _tell(self) -> None:
        while True:
            try:
                self._client.waiting()
            except PlatformError as error:
                logger.debug("the platform was not told: %s", error)
            if self._is_over.wait(self._every_s):
                return
