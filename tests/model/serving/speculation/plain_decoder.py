"""The decoder written from its definitions in fp64, one sequence, head and query at a time: what fast code must equal.

Imports nothing of the stack but the shape. Weights come as a state dict with the stack's names. Rotary is unscaled.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from model.config import ModelConfig

State = Mapping[str, Tensor]


def doubled(state: State) -> dict[str, Tensor]:
    """fp64 copies of the weights, each with a gradient to be had."""
    return {name: tensor.detach().double().clone().requires_grad_() for name, tensor in state.items()}


def below(state: State, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return x @ weight.T if bias is None else x @ weight.T + bias


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def turned(x_SC: Tensor, positions: list[int], theta: float, interleaved: bool) -> Tensor:
    """Each pair of dimensions as one complex number, times e^(i * position * theta^(-2k/C))."""
    width = x_SC.shape[1]
    pairs = [(2 * k, 2 * k + 1) if interleaved else (k, k + width // 2) for k in range(width // 2)]
    columns: dict[int, Tensor] = {}
    for k, (first, second) in enumerate(pairs):
        angle = torch.tensor(positions, dtype=torch.float64) * theta ** (-2 * k / width)
        columns[first] = x_SC[:, first] * angle.cos() - x_SC[:, second] * angle.sin()
        columns[second] = x_SC[:, second] * angle.cos() + x_SC[:, first] * angle.sin()
    return torch.stack([columns[index] for index in range(width)], dim=1)


def can_see(query: int, key: int, window: int | None, documents: list[int] | None) -> bool:
    if key > query or (window is not None and query - key >= window):
        return False
    return documents is None or len(set(documents[key : query + 1])) == 1


def attended(
    q_SC: Tensor, k_SC: Tensor, v_SU: Tensor, window: int | None, documents: list[int] | None
) -> Tensor:
    """One head's outputs [S, U]."""
    rows = []
    for query in range(len(q_SC)):
        keys = [key for key in range(len(k_SC)) if can_see(query, key, window, documents)]
        weights = (k_SC[keys] @ q_SC[query] / q_SC.shape[1] ** 0.5).softmax(0)
        rows.append(weights @ v_SU[keys])
    return torch.stack(rows)


def attention(
    config: ModelConfig,
    w: State,
    x_SD: Tensor,
    positions: list[int],
    window: int | None,
    documents: list[int] | None,
) -> Tensor:
    width = config.d_head
    q, k, v = (linear(x_SD, w[f"w_{kind}"], w.get(f"b_{kind}")) for kind in "qkv")
    if config.qk_norm == "all":
        q = rms_norm(q, w["q_norm.weight"], config.norm_eps)
        k = rms_norm(k, w["k_norm.weight"], config.norm_eps)
    outputs = []
    for head in range(config.n_heads):
        group = head * config.n_kv_heads // config.n_heads
        q_SC, k_SC, v_SC = (
            kind[:, index * width : (index + 1) * width]
            for kind, index in ((q, head), (k, group), (v, group))
        )
        if config.qk_norm == "head":
            q_SC = rms_norm(q_SC, w["q_norm.weight"], config.norm_eps)
            k_SC = rms_norm(k_SC, w["k_norm.weight"], config.norm_eps)
        if config.qkv_clip is not None:
            q_SC, k_SC, v_SC = (part.clamp(-config.qkv_clip, config.qkv_clip) for part in (q_SC, k_SC, v_SC))
        q_SC = turned(q_SC, positions, config.rope_theta, config.rope_interleaved)
        k_SC = turned(k_SC, positions, config.rope_theta, config.rope_interleaved)
        outputs.append(attended(q_SC, k_SC, v_SC, window, documents))
    return linear(torch.cat(outputs, dim=1), w["w_o"], w.get("b_o"))


def latent_attention(
    config: ModelConfig,
    w: State,
    x_SD: Tensor,
    positions: list[int],
    window: int | None,
    documents: list[int] | None,
) -> Tensor:
    latent = config.latent
    assert latent is not None
    if latent.q_rank is None:
        q = linear(x_SD, w["w_q"])
    else:
        down = rms_norm(linear(x_SD, w["w_q_down"], w.get("b_q_down")), w["q_norm.weight"], 1e-6)
        q = linear(down, w["w_q_up"])
    down = linear(x_SD, w["w_kv_down"], w.get("b_kv_down"))
    k_rope = turned(down[:, latent.kv_rank :], positions, config.rope_theta, config.rope_interleaved)
    kv = linear(rms_norm(down[:, : latent.kv_rank], w["kv_norm.weight"], 1e-6), w["w_kv_up"])
    outputs = []
    for q_head, kv_head in zip(q.chunk(config.n_heads, 1), kv.chunk(config.n_heads, 1), strict=True):
        q_rope = turned(q_head[:, latent.d_nope :], positions, config.rope_theta, config.rope_interleaved)
        q_SC = torch.cat((q_head[:, : latent.d_nope], q_rope), dim=1)
        k_SC = torch.cat((kv_head[:, : latent.d_nope], k_rope), dim=1)
        outputs.append(attended(q_SC, k_SC, kv_head[:, latent.d_nope :], window, documents))
    return linear(torch.cat(outputs, dim=1), w["w_o"], w.get("b_o"))


def swiglu(w: State, x: Tensor) -> Tensor:
    gate = linear(x, w["w_gate"], w.get("b_gate"))
    product = gate / (1 + (-gate).exp()) * linear(x, w["w_up"], w.get("b_up"))
    return linear(product, w["w_down"], w.get("b_down"))


def mixture(config: ModelConfig, w: State, x_SD: Tensor) -> Tensor:
    """Softmax gate, normalised weights, ungated shared experts."""
    moe = config.moe
    assert moe is not None
    rows = []
    for x_D in x_SD:
        scores_E = linear(x_D, w["router.weight"]).softmax(-1)
        chosen = scores_E.topk(moe.top_k).indices
        y_D = swiglu(below(w, "shared."), x_D) if moe.n_shared else torch.zeros_like(x_D)
        for expert in chosen:
            weights = {name: stack[expert] for name, stack in below(w, "experts.").items()}
            y_D = y_D + scores_E[expert] / scores_E[chosen].sum() * swiglu(weights, x_D)
        rows.append(y_D)
    return torch.stack(rows)


def block(
    config: ModelConfig,
    layer: int,
    norms: State,
    attention_weights: State,
    ffn_weights: State,
    x_SD: Tensor,
    positions: list[int],
    documents: list[int] | None,
) -> Tensor:
    attend = attention if config.latent is None else latent_attention
    normed = rms_norm(x_SD, norms["attention_norm.weight"], config.norm_eps)
    x_SD = x_SD + attend(config, attention_weights, normed, positions, config.window(layer), documents)
    normed = rms_norm(x_SD, norms["ffn_norm.weight"], config.norm_eps)
    is_moe = config.is_moe_layer(layer)
    return x_SD + (mixture(config, ffn_weights, normed) if is_moe else swiglu(ffn_weights, normed))


def hidden(
    config: ModelConfig,
    state: State,
    tokens: list[int],
    positions: list[int] | None = None,
    documents: list[int] | None = None,
) -> Tensor:
    """The residual stream [S, D] after the last block."""
    positions = list(range(len(tokens))) if positions is None else positions
    x_SD = state["embedding"][tokens]
    for layer in range(config.n_layers):
        attention_weights = below(state, f"layers.{config.attention_owner(layer)}.attention.")
        ffn_weights = below(state, f"layers.{config.ffn_owner(layer)}.ffn.")
        norms = below(state, f"layers.{layer}.")
        x_SD = block(config, layer, norms, attention_weights, ffn_weights, x_SD, positions, documents)
    return x_SD


def logits(config: ModelConfig, state: State, x_SD: Tensor) -> Tensor:
    normed = rms_norm(x_SD, state["norm.weight"], config.norm_eps)
    return linear(normed, state["embedding"] if config.tie_embeddings else state["head"])


def mtp_logits(config: ModelConfig, state: State, x_SD: Tensor, tokens: list[int]) -> list[Tensor]:
    """Of module i at the positions p whose token p + i + 1 exists: [S - i - 1, V]."""
    results = []
    for depth in range(config.n_ahead):
        w = below(state, f"ahead.{depth}.")
        embedded = state["embedding"][tokens[depth + 1 :]]
        x_SD = x_SD[: len(embedded)]
        both = torch.cat(
            (
                rms_norm(x_SD, w["hidden_norm.weight"], config.norm_eps),
                rms_norm(embedded, w["embedding_norm.weight"], config.norm_eps),
            ),
            dim=1,
        )
        parts = below(w, "block.")
        x_SD = block(
            config,
            config.n_layers - 1,
            parts,
            below(parts, "attention."),
            below(parts, "ffn."),
            linear(both, w["w_join"]),
            list(range(len(embedded))),
            None,
        )
        normed = rms_norm(x_SD, w["norm.weight"], config.norm_eps)
        results.append(linear(normed, state["embedding"] if config.tie_embeddings else state["head"]))
    return results
