"""Libraries and the stack's transformer for the training suites. Mounted next to their sandboxed halves.

Runs inside the sandbox only.
"""

from __future__ import annotations

from typing import Any

import tensors  # type: ignore[import-not-found]  # it is next to this file inside the sandbox
import torch


def start(threads: int, device: str) -> None:
    """Prepare torch before the tree is imported: what it loads with its first backward pass and optimiser."""
    tensors.start(threads, device)
    ones = torch.ones(8, 8, device=device, requires_grad=True)
    optimizer = torch.optim.AdamW([ones], fused=True)
    (ones @ ones).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def transformer(config: dict[str, Any], weights: dict[str, Any]) -> Any:
    """The transformer of the mounted tree, with the judge's weights, on the job's device."""
    from model.config import ModelConfig, MoEConfig
    from model.transformer import Transformer

    moe_names = ("d_model", "d_expert", "n_experts", "top_k", "n_shared")
    names = ("vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "d_head", "d_ff", "max_context")
    shape = ModelConfig(
        name="judged",
        rope_theta=float(config["rope_theta"]),
        norm_eps=config["norm_eps_ppb"] / 1e9,
        tie_embeddings=bool(config["tied"]),
        moe=MoEConfig(**{name: config[name] for name in moe_names}),
        first_moe_layer=config["first_moe_layer"],
        **{name: config[name] for name in names},
    )
    model = Transformer(shape)
    tensors.load_state(model, weights, config["device"])
    return model
