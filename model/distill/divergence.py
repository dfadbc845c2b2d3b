"""Divergence of a student's next-token distribution from its teacher's (Hinton et al. 2015, arXiv:1503.02531).

Both distributions are softened by one temperature t; t^2 times the Kullback-Leibler divergence keeps the size of
gradients about the same for every t. A teacher may be given by its k likeliest tokens alone: then all others are
one more outcome, whose probability is compared as a whole. Merging outcomes never raises a divergence, so the result is
a lower bound of the full one. Leaving the rest out would train the student to give it no probability.

Shapes: N positions, V vocabulary, K likeliest tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.training.config.temperature import require_temperature


@dataclass(frozen=True)
class TopK:
    """Softened distributions over N positions by their likeliest tokens. Probabilities of a row sum to one."""

    ids_NK: Tensor  # int64, all different within a row
    log_p_NK: Tensor  # fp32
    log_rest_N: Tensor  # fp32, of all other tokens together; minus infinity if there are none
    temperature: float

    def __len__(self) -> int:
        return self.ids_NK.shape[0]


def top_k_of(logits_NV: Tensor, k: int, temperature: float) -> TopK:
    """The k likeliest tokens of each position, softened. Raises ValueError where k is not in 1..V."""
    require_temperature(temperature)
    if not 1 <= k <= logits_NV.shape[-1]:
        raise ValueError(f"k must be from 1 to the vocabulary's {logits_NV.shape[-1]} tokens, not {k}")
    softened_NV = logits_NV.float() / temperature
    log_total_N1 = softened_NV.logsumexp(-1, keepdim=True)
    top = softened_NV.topk(k, dim=-1)
    log_rest_N = _log_rest(softened_NV, top.indices) - log_total_N1[:, 0]
    return TopK(top.indices, top.values - log_total_N1, log_rest_N, temperature)


def kl_divergence(student_NV: Tensor, teacher: Tensor | TopK, temperature: float) -> Tensor:
    """temperature^2 * KL(teacher || student) of each position in nats, fp32 [N]; `teacher`: logits [N, V] or TopK.

    No gradient reaches the teacher. Raises ValueError where the two do not match.
    """
    require_temperature(temperature)
    softened_NV = student_NV.float() / temperature
    if isinstance(teacher, TopK):
        _check(softened_NV, teacher, temperature)
        divergence_N = _top_k_divergence(softened_NV, teacher)
    else:
        if teacher.shape != student_NV.shape:
            raise ValueError(
                f"teacher's logits {list(teacher.shape)} do not fit the student's {list(student_NV.shape)}"
            )
        log_p_NV = (teacher.detach().float() / temperature).log_softmax(-1)
        divergence_N = _summed(log_p_NV, softened_NV.log_softmax(-1))
    return temperature**2 * divergence_N


def _top_k_divergence(softened_NV: Tensor, teacher: TopK) -> Tensor:
    log_total_N1 = softened_NV.logsumexp(-1, keepdim=True)
    log_q_NK = softened_NV.gather(-1, teacher.ids_NK) - log_total_N1
    # not log(1 - sum of q), which loses all digits where the top tokens have nearly all of the probability
    log_q_rest_N = _log_rest(softened_NV, teacher.ids_NK) - log_total_N1[:, 0]
    log_p_NX = torch.cat((teacher.log_p_NK, teacher.log_rest_N[:, None]), dim=-1)
    log_q_NX = torch.cat((log_q_NK, log_q_rest_N[:, None]), dim=-1)
    return _summed(log_p_NX.detach(), log_q_NX)


def _summed(log_p_NX: Tensor, log_q_NX: Tensor) -> Tensor:
    """Sum of p (log p - log q); an outcome without probability adds 0, also if q is 0."""
    p_NX = log_p_NX.exp()
    terms_NX = p_NX * (log_p_NX - torch.where(p_NX > 0, log_q_NX, 0.0))
    return torch.where(p_NX > 0, terms_NX, 0.0).sum(-1)


def _log_rest(x_NV: Tensor, ids_NK: Tensor) -> Tensor:
    """The log-sum-exp of all entries but the given ones, [N]; minus infinity where none are left."""
    if ids_NK.shape[-1] == x_NV.shape[-1]:
        return x_NV.new_full(x_NV.shape[:-1], float("-inf"))
    return x_NV.scatter(-1, ids_NK, float("-inf")).logsumexp(-1)


def _check(student_NV: Tensor, teacher: TopK, temperature: float) -> None:
    if len(teacher) != student_NV.shape[0]:
        raise ValueError(f"the teacher has {len(teacher)} positions, the student {student_NV.shape[0]}")
    if teacher.temperature != temperature:
        raise ValueError(
            f"these top tokens were softened by a temperature of {teacher.temperature}, not {temperature}: use the "
            "same, or compute them again"
        )
