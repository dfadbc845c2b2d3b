"""Makes the files of models in a separate process, so that this one needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.pairs.cores import choose_cores
from benchmarks.peers.models import PeerModel
from benchmarks.peers.side import Side, driver

TIMEOUT_S = 900.0


def make_models(
    models: Iterable[PeerModel], *, ggufs: Sequence[str], home: Path, say: Callable[[str], None]
) -> None:
    """Makes what is missing. Raises MeasuringFailed where it cannot be made (no network, no disk space)."""
    waiting = [
        model
        for model in models
        if not model.hf.exists() or not all(model.gguf(weights).is_file() for weights in ggufs)
    ]
    if not waiting:
        return
    log = home / "logs" / "models.log"
    maker = Side("models", argv=driver("make_models"), core=choose_cores().measuring, log=log)
    with maker:
        for model in waiting:
            say(f"making the files of {model.name} in {model.folder}")
            maker.ask(
                "make",
                timeout_s=TIMEOUT_S,
                config=model.config.to_dict(),
                folder=str(model.folder),
                is_random=model.is_random,
                ggufs=list(ggufs),
            )
