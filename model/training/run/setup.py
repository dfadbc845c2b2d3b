"""Build the parts of a run from its configuration: device, precision, model and trainer."""

from __future__ import annotations

import platform

import torch
import torch.nn.functional as F

from model.checkpoint import load_transformer
from model.config import ConfigError, ModelConfig
from model.layers.attention import gqa_fused
from model.layers.linear import linear
from model.layers.moe.layer import Experts
from model.layers.quantisation import quantise_training
from model.training.config.run_config import RunConfig
from model.training.optim.precision import Precision, check_precision
from model.training.optim.precision_choice import PrecisionChoice, choose
from model.training.report.product_rates import measure_product_rates
from model.training.run.finite_weights import require_finite_checkpoint
from model.training.run.trainer import Trainer
from model.transformer import Transformer


def device_of(config: RunConfig) -> torch.device:
    """The configured device. Raises ConfigError where this machine does not have it, or not the precision on it."""
    wanted = config.compute.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("[compute] device is 'cuda', but torch sees no CUDA device: use 'auto' or 'cpu'")
    is_cuda = wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if is_cuda else "cpu")
    check_precision(config.compute.precision, device)
    return device


def precision_for(
    config: RunConfig, device: torch.device, *, saved: Precision | None = None
) -> PrecisionChoice:
    """The run's precision on `device`; `saved` is that of its checkpoint. Raises as `choose`.

    Rates are measured with as many rows as a micro-batch has on one rank, and with torch's products where blocks are
    compiled.
    """
    compute, parallel = config.compute, config.parallel
    n_parts = compute.micro_batches * (1 if parallel is None else parallel.dp)
    rows = max(1, config.data.batch_tokens // n_parts)
    multiply = F.linear if compute.compile else linear
    return choose(
        compute.precision,
        device,
        saved=saved,
        has_fp16=parallel is None,
        measure=lambda: measure_product_rates(rows, multiply=multiply),
    )


def trainer_for(config: RunConfig, vocabulary: int, precision: Precision) -> Trainer:
    """A trainer of the configured model with fp32 masters: random by `seed`, or a checkpoint's weights.

    Sets torch's threads and seed for the process. Raises ConfigError and CheckpointError.
    """
    compute = config.compute
    if compute.threads is not None:
        torch.set_num_threads(compute.threads)
    device = device_of(config)
    model = model_for(config, vocabulary).to(device).requires_grad_(True)
    model.checkpointing = compute.checkpointing
    if compute.eight_bit != "none":
        quantise_training(model, compute.eight_bit)
    trainer = Trainer(model, config.recipe, precision=precision)
    if compute.compile:
        _compile(model)
    return trainer


def shape_for(config: RunConfig, vocabulary: int) -> ModelConfig:
    """The configured model's shape. Raises ConfigError where its context is too short for the data's sequences."""
    shape = config.model.shape(vocabulary)
    key, longest = config.longest_sequence
    if longest > shape.max_context:
        raise ConfigError(
            f"{key} is {longest}, but the model's max_context {shape.max_context}: lower the first or "
            "raise the second"
        )
    return shape


def model_for(config: RunConfig, vocabulary: int) -> Transformer:
    """The configured model in fp32 on the host: random by `seed`, or a checkpoint's weights. Raises as `trainer_for`."""
    shape = shape_for(config, vocabulary)
    torch.manual_seed(config.seed)
    model = Transformer(shape)
    if config.model.checkpoint is not None:
        # Copied: a folder's weights are mapped from its file, in the format that it was saved in.
        state = load_transformer(config.model.checkpoint).state_dict()
        require_finite_checkpoint(config.model.checkpoint, state)
        model.load_state_dict(state)
    return model


def machine_facts(device: torch.device, precision: Precision) -> dict[str, str | int]:
    """Facts about the machine that measured figures depend on."""
    is_cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device)
        if is_cuda
        else f"CPU, {torch.get_num_threads()} threads",
        "precision": precision,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "system": platform.platform(),
    }


def _compile(model: Transformer) -> None:
    """Compile each block separately, without its routed experts, which have their own kernels."""
    for module in model.modules():
        if isinstance(module, Experts):
            module.apply_experts = torch.compiler.disable(module.apply_experts)  # type: ignore[no-untyped-call]
    gqa_fused.load()
    for block in model.layers:
        block.compile()
