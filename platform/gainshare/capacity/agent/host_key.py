"""The host's own key, which signs what a canary found: made once in the agent's folder, registered with the host's token."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from benchmarks.evidence.signing import KeyFileError, generate_key, load_key, public_key, save_key
from benchmarks.patch.blobs import sha256_hex
from gainshare.capacity.agent.protocol import KEY_PATH
from gainshare.capacity.agent.records import write_private
from gainshare.capacity.agent.site import Refusal, Site

KEY, REGISTERED = "host-key.pem", "host-key.registered"
AGAIN_S = 60.0  # after the site refused for another reason than another key
CONFLICT = 409


class HostKey:
    """The key of a host. ``problem`` says why the site would not believe what it signs; empty: it would."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.file = folder / KEY
        self.problem = ""
        self._registered_file = folder / REGISTERED
        self._say = say
        self._public = ""
        self._settled = ""  # digest of the token and key for which there is nothing left to do
        self._again_s = 0.0

    def make(self) -> None:
        """Read the key, or make it at the first start. Without one the host serves, and measures nothing."""
        try:
            if not self.file.exists():
                self._make()
            self._public = public_key(load_key(self.file))
        except (KeyFileError, OSError) as error:
            self.problem = (
                f"this host's key cannot be used: {error}; move {self.file.name} away, start the agent again, and renew "
                "the host's token"
            )
            self._say(self.problem)
            return
        with suppress(OSError, UnicodeDecodeError):
            self._settled = self._registered_file.read_text().strip()

    async def register(self, site: Site) -> None:
        """Tell the site the public key, once for each token. Raises SiteAbsent, TokenRefused or Dismissed."""
        if not self._public or time.monotonic() < self._again_s:
            return
        both = sha256_hex(f"{site.token_digest} {self._public}".encode())
        if both == self._settled:
            return
        try:
            await site.post(KEY_PATH, {"public_key": self._public})
        except Refusal as refusal:
            self._take_refusal(refusal, both)
            return
        self.problem, self._settled = "", both
        with suppress(OSError):  # a full disk: it is told again at the next start
            write_private(self._registered_file, both)
        self._say("the site knows this host's key")

    def _make(self) -> None:
        """The file is there whole or not at all."""
        new = self.file.with_suffix(".new")
        new.unlink(missing_ok=True)
        save_key(generate_key(), new)
        new.rename(self.file)

    def _take_refusal(self, refusal: Refusal, both: str) -> None:
        if refusal.status != CONFLICT:
            self._again_s = time.monotonic() + AGAIN_S
            self._say(f"the site does not take this host's key: {refusal}")
            return
        self._settled = both
        self.problem = (
            "the site knows another key of this host: start the agent in the folder that has it, or renew the host's token "
            "(gainshare hosts renew), which registers this one"
        )
        self._say(self.problem)
