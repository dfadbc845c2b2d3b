"""Peak rates of this core while it does nothing else, for the rooflines, measured in the same run.

The same peak is asked for again and again in a run; the best counts.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.side import Side, driver

TIMEOUT_S = 300.0


class Machine:
    """A process that measures its core; use it as a context manager, and only while all sides are stopped."""

    def __init__(self, *, core: int, home: Path) -> None:
        self._side = Side(
            "machine",
            argv=driver("machine"),
            core=core,
            log=home / "logs" / "machine.log",
        )
        self._best: dict[str, float] = {}
        self._side.freeze()

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._side.close()

    def gemm(self, dtype: str) -> float:
        """Operations a second of large square products in `dtype`; `int8` counts integer operations."""
        return self._ask(f"gemm {dtype}", "flops", "gemm", dtype=dtype)

    def bandwidth(self, n_bytes: int) -> float:
        """Bytes a second that are read from an array of this size."""
        return self._ask(f"bandwidth {n_bytes}", "bytes_per_s", "bandwidth", n_bytes=n_bytes)

    def _ask(self, key: str, figure: str, command: str, **arguments: int | str) -> float:
        self._side.thaw()
        try:
            value = float(self._side.ask(command, timeout_s=TIMEOUT_S, **arguments)[figure])
        finally:
            self._side.freeze()
        self._best[key] = max(value, self._best.get(key, 0.0))
        return self._best[key]
