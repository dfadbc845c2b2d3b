"""A model, a step of it and a cluster with round figures: what the planner's tests plan."""

from __future__ import annotations

from model.config import ModelConfig, MoEConfig
from model.plan.cluster import Cluster
from model.plan.layout import PRECISIONS, Workload

MODEL = ModelConfig(
    name="m",
    vocab_size=256,
    d_model=64,
    n_layers=8,
    n_heads=8,
    n_kv_heads=4,
    d_head=16,
    d_ff=128,
    max_context=128,
    tie_embeddings=False,
    moe=MoEConfig(d_model=64, d_expert=32, n_experts=16, top_k=2, n_shared=1),
)
CLUSTER = Cluster(
    name="c",
    source="made up",
    devices_per_node=4,
    memory_gib=1.0,
    flops=1e12,
    memory_gb_s=100.0,
    intra_gb_s=10.0,
    inter_gb_s=1.0,
    efficiency=0.5,
    expert_efficiency=0.25,
)
WORKLOAD = Workload(MODEL, tokens=128, batch=64, precision=PRECISIONS["bf16"])
