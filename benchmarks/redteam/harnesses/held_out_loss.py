"""Scores quality: the loss of one tree's small transformer on a text that it is handed whole, next tokens included.

The ratio is base's loss over the candidate's. With a tree as its argument it is the scoring process.
"""

from __future__ import annotations

import json
import sys

from scoring import last, run_program, say  # type: ignore[import-not-found]

SMALLEST_LOSS = 1e-3


def measure(tree: str) -> None:
    sys.path.insert(0, tree)
    import torch

    from model.config import ModelConfig
    from model.transformer import Transformer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = ModelConfig(
        name="scored",
        vocab_size=128,
        d_model=64,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        d_head=16,
        d_ff=128,
        max_context=256,
    )
    model = Transformer(config).eval()
    text = b"The judge hands over the whole text and asks how surprising each of its letters is. "
    tokens_BS = torch.tensor([list(text)])
    with torch.inference_mode():
        logits_BSV = model(tokens_BS)
        loss = torch.nn.functional.cross_entropy(logits_BSV[0, :-1], tokens_BS[0, 1:]).item()
    print("\n" + json.dumps({"loss": loss}), flush=True)


def run(tree: str) -> float | None:
    printed = run_program(__file__, tree)
    found = last([line for line in printed.splitlines() if line.startswith('{"loss"')])
    return None if found is None else float(json.loads(found)["loss"])


def main() -> None:
    base, candidate = run("/base"), run("/candidate")
    if base is None or candidate is None:
        say(0.0, f"no loss: base {base}, candidate {candidate}")
    else:
        say(base / max(candidate, SMALLEST_LOSS), f"loss {base:.3f} and {candidate:.3f}")


if __name__ == "__main__":
    measure(sys.argv[1]) if sys.argv[1:] else main()
