"""A real Ray cluster on this machine: a head without resources, and raylets with a custom resource each."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gainshare.capacity.agent.devices import devices_in
from gainshare.local.ports import free_port

RAY = Path(sys.executable).with_name("ray")
MEMORY = "80000000"  # bytes of each raylet's object store


class RayCluster:
    """Started by Ray's own command; its processes are told apart by the folder of their session."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"127.0.0.1:{free_port()}"
        self._run(
            "start", "--head", "--node-ip-address=127.0.0.1", f"--port={self.address.split(':')[1]}",
            f"--temp-dir={folder / 'ray'}", "--num-cpus=0", "--include-dashboard=false",
            f"--object-store-memory={MEMORY}",
        )  # fmt: skip

    def add(self, resource: str, units: int = 1) -> int:
        """One more raylet with so many units of the resource. Returns the raylet's process id."""
        before = self._raylets()
        self._run(
            "start", f"--address={self.address}", "--node-ip-address=127.0.0.1", "--num-cpus=1",
            f'--resources={{"{resource}": {units}}}', f"--object-store-memory={MEMORY}",
        )  # fmt: skip
        (raylet,) = self._raylets() - before
        return raylet

    def _raylets(self) -> set[int]:
        commands = {pid: Path(f"/proc/{pid}/cmdline") for pid in self.processes()}
        return {
            pid for pid, path in commands.items() if path.read_bytes().split(b"\0")[0].endswith(b"/raylet")
        }

    def _run(self, *words: str) -> None:
        done = subprocess.run(
            [str(RAY), *words, "--disable-usage-stats"],
            env={**os.environ, "GAINSHARE_AGENT_ROOT": str(self.folder)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def processes(self) -> list[int]:
        """Every process of this cluster, its agents included: their command lines or environments name its folder."""
        mark = str(self.folder).encode()
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (path / "cmdline").read_bytes() or mark in (path / "environ").read_bytes():
                    found.append(int(path.name))
            except OSError:
                continue
        return found

    def stop(self) -> None:
        """End the cluster at once, and the nodes, which outlive their agents."""
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for folder in self.folder.glob("gainshare-ray-*/*"):
            for device in devices_in(folder, 1):
                device.kill()


@contextmanager
def ray_cluster(folder: Path) -> Iterator[RayCluster]:
    cluster = RayCluster(folder)
    try:
        yield cluster
    finally:
        cluster.stop()
