"""What the ranks of a serving job compute together is what one process computes, whatever is split over them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from model.config import LatentConfig, ModelConfig, MoEConfig
from model.parallel.mesh.mesh import MeshError
from model.serving.distributed.shard import Degrees, Groups, LocalExperts, check_degrees, shard_of
from model.serving.engine.cache import SequenceCache
from model.transformer import Transformer
from tests.model.parallel.gloo_threads import on_ranks
from tests.model.random_models import SMALL, random_transformer, relative_error

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
LLAMA = SMALL  # 53 ids: no number of ranks divides them
QWEN = dataclasses.replace(
    SMALL,
    name="qwen3-moe",
    qk_norm="head",
    tie_embeddings=False,
    moe=MoEConfig(d_model=24, d_expert=16, n_experts=8, top_k=3),
)
SHARED = dataclasses.replace(
    SMALL,
    name="shared",
    n_layers=4,
    n_kv_heads=4,
    qkv_bias=True,
    sliding_window=5,
    full_attention_layers=(3,),
    attention_owners=(0, 0, 2, 2),
    ffn_owners=(0, 1, 1, 3),
    first_moe_layer=1,
    n_ahead=1,
    moe=MoEConfig(
        d_model=24,
        d_expert=8,
        n_experts=8,
        top_k=2,
        n_shared=2,
        gate="sigmoid",
        gate_shared=True,
        bias_balancing=True,
    ),
)
LATENT = dataclasses.replace(
    SMALL,
    name="deepseek",
    n_kv_heads=4,
    latent=LatentConfig(kv_rank=12, d_nope=8, d_rope=4, d_value=8, q_rank=16),
    first_moe_layer=1,
    moe=MoEConfig(d_model=24, d_expert=16, n_experts=8, top_k=2, n_shared=1, n_groups=4, top_groups=2),
)
SPLITS = [
    (LLAMA, Degrees(tensor=2)),
    (QWEN, Degrees(tensor=2)),
    (QWEN, Degrees(expert=2)),
    (QWEN, Degrees(tensor=2, expert=2)),
    (QWEN, Degrees(tensor=2, expert=4)),
    (SHARED, Degrees(tensor=2, expert=2)),
    (SHARED, Degrees(tensor=4, expert=2)),
    (SHARED, Degrees(tensor=2, expert=8)),
    (LATENT, Degrees(tensor=4, expert=1)),
    (LATENT, Degrees(expert=4)),
]
# Of two sequences: prompts in chunks, then single tokens, alone and together.
STEPS = [[(0, 7)], [(0, 1), (1, 5)], [(1, 4)], [(0, 1), (1, 1)], [(1, 1), (0, 1)], [(0, 2)]]


def decoded(model: Transformer, vocab_size: int) -> list[torch.Tensor]:
    """The logits of all `STEPS` over the same random tokens."""
    rng = torch.Generator().manual_seed(3)
    caches = [SequenceCache(model.config, model.dtype, model.device) for _ in range(2)]
    logits: list[torch.Tensor] = []
    for step in STEPS:
        parts = [
            (caches[sequence], torch.randint(vocab_size, (n,), generator=rng).tolist())
            for sequence, n in step
        ]
        logits.append(model.step(parts))
        for cache, tokens in parts:
            cache.advance(len(tokens))
    return logits


@pytest.mark.parametrize(
    ("config", "degrees"), SPLITS, ids=[f"{c.name}-tp{d.tensor}-ep{d.expert}" for c, d in SPLITS]
)
def test_ranks_together_give_the_logits_of_one_process(config: ModelConfig, degrees: Degrees) -> None:
    whole = random_transformer(config).eval()
    for name, buffer in whole.named_buffers():
        if name.endswith("router.bias"):
            buffer.uniform_(-0.2, 0.2)
    state = whole.state_dict()
    expected = decoded(whole, config.vocab_size)

    def compute(rank: int, groups: Groups) -> list[torch.Tensor]:
        shard = shard_of(config, state, degrees, rank, groups, device=CPU, dtype=torch.float32)
        return decoded(shard, config.vocab_size)

    found = on_ranks(degrees, compute)[0]
    for logits, reference in zip(found, expected, strict=True):
        assert logits.shape == reference.shape and logits.dtype is torch.float32
        assert relative_error(logits, reference) < 1e-5
        assert torch.equal(logits.argmax(-1), reference.argmax(-1))


def test_bf16_parts_are_added_up_in_fp32() -> None:
    whole = random_transformer(QWEN).cast_blocks(torch.bfloat16).eval()
    state, degrees = whole.state_dict(), Degrees(tensor=2, expert=2)
    exact = decoded(random_transformer(QWEN).eval(), QWEN.vocab_size)
    alone = decoded(whole, QWEN.vocab_size)

    def compute(rank: int, groups: Groups) -> list[torch.Tensor]:
        shard = shard_of(QWEN, state, degrees, rank, groups, device=CPU, dtype=torch.bfloat16)
        assert shard.dtype is torch.bfloat16 and shard.embedding.dtype is torch.float32
        return decoded(shard, QWEN.vocab_size)

    together = on_ranks(degrees, compute)[0]
    errors = [
        sum(float((a - b).square().mean()) for a, b in zip(found, exact, strict=True))
        for found in (alone, together)
    ]
    assert 0 < errors[1] < 1.5 * errors[0]


@pytest.mark.parametrize("degrees", [Degrees(tensor=2), Degrees(expert=4), Degrees(tensor=2, expert=2)])
def test_every_rank_holds_its_share_only(degrees: Degrees) -> None:
    state = random_transformer(QWEN).state_dict()
    sizes = {"experts": 0, "heads": 0, "vocabulary": 0}
    for rank in range(degrees.n_ranks):
        shard = shard_of(QWEN, state, degrees, rank, Groups(), device=CPU, dtype=torch.float32)
        for name, tensor in shard.state_dict().items():
            if ".experts." in name:
                sizes["experts"] += tensor.numel()
            elif ".attention.w_" in name:
                sizes["heads"] += tensor.numel()
            elif name in ("embedding", "head"):
                sizes["vocabulary"] += tensor.numel()
            storage = tensor.untyped_storage()
            assert storage.nbytes() == tensor.nbytes, f"{name} keeps more alive than it needs"
    n_copies = degrees.n_ranks // degrees.tensor
    assert sizes["experts"] == sum(t.numel() for name, t in state.items() if ".experts." in name)
    assert sizes["heads"] == n_copies * sum(t.numel() for name, t in state.items() if ".attention.w_" in name)
    ids = -(-53 // degrees.tensor) * degrees.tensor
    assert sizes["vocabulary"] == n_copies * 2 * ids * QWEN.d_model


def test_experts_elsewhere_add_nothing() -> None:
    config = MoEConfig(d_model=8, d_expert=4, n_experts=2, top_k=1)
    experts = LocalExperts(config, first=4)
    x, weights = torch.randn(3, 8), torch.ones(3, 2)
    nothing = experts(x, weights, torch.tensor([[0, 3], [6, 7], [1, 2]]))
    assert nothing.shape == (3, 8) and not nothing.any()
    some = experts(x, weights, torch.tensor([[0, 3], [5, 7], [1, 2]]))
    assert some[1].any() and not some[[0, 2]].any()


def test_no_logits_are_asked_of_nobody() -> None:
    """A step within a prompt wants none, and must not wait for others that do not come."""
    shard = shard_of(
        LLAMA, random_transformer(LLAMA).state_dict(), Degrees(), 0, Groups(), device=CPU, dtype=torch.float32
    )
    assert shard.logits(torch.zeros(0, LLAMA.d_model)).shape == (0, LLAMA.vocab_size)


@pytest.mark.parametrize(("tensor", "expert"), [(2, 3), (4, 6), (0, 1), (3, 2)])
def test_axes_that_do_not_lie_over_the_same_ranks_are_refused(tensor: int, expert: int) -> None:
    with pytest.raises(MeshError, match="one a multiple of the other"):
        Degrees(tensor, expert)


@pytest.mark.parametrize(
    ("config", "degrees", "message"),
    [
        (LLAMA, Degrees(tensor=4), r"n_kv_heads \(2\) is not a multiple"),
        (LLAMA, Degrees(expert=2), "no experts to spread"),
        (QWEN, Degrees(expert=3), r"n_experts \(8\) is not a multiple"),
        (dataclasses.replace(LLAMA, qk_norm="all"), Degrees(tensor=2), "use tp=1"),
    ],
)
def test_models_that_cannot_be_split_are_refused_with_the_reason(
    config: ModelConfig, degrees: Degrees, message: str
) -> None:
    with pytest.raises(MeshError, match=f"{config.name} cannot be served .*{message}"):
        check_degrees(config, degrees)


def test_a_checkpoint_of_another_model_is_refused() -> None:
    state = random_transformer(LLAMA).state_dict()
    with pytest.raises(MeshError, match="lacks head: it is of another model"):
        shard_of(QWEN, state, Degrees(tensor=2), 0, Groups(), device=CPU, dtype=torch.float32)
