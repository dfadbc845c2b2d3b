"""Distillation objective: targets, a teacher's output distribution and, if configured, its hidden states.

Replaces `model.training.losses.objective.losses_on`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ConfigError, ModelConfig
from model.data.batches.batch import Batch
from model.distill.divergence import TopK, kl_divergence
from model.distill.errors import IncompatibleError
from model.distill.hidden import HiddenStateLoss, States, hidden_states
from model.distill.identity import require_same_tokens
from model.distill.teacher import LiveTeacher, Teacher, scored
from model.training.config.temperature import require_temperature
from model.training.losses.objective import Losses, mtp_loss_on
from model.transformer import Transformer


class Parts(NamedTuple):
    """The parts of the loss, for logs: sums over scored positions divided by `n_targets`, in nats, unweighted."""

    target: Tensor
    divergence: Tensor
    hidden: Tensor | None


class Distillation(nn.Module):
    """(1 - weight) * cross-entropy + weight * t^2 KL(teacher || student) + hidden_weight * hidden-state loss.

    Its own parameters, if any, are `hidden.projections`, not a part of the student: `Trainer.learn_by` trains them and
    `model.training.run.state` saves them. Hidden states need a live teacher. Raises IncompatibleError where token ids
    differ, and ConfigError or ValueError for invalid weights and temperatures.
    """

    def __init__(
        self,
        teacher: Teacher,
        student: ModelConfig,
        *,
        tokenizer: str,
        temperature: float = 2.0,
        weight: float = 0.5,
        layer_map: dict[int, int] | None = None,
        hidden_weight: float = 1.0,
    ) -> None:
        super().__init__()
        require_same_tokens(
            student_vocabulary=student.vocab_size,
            student_tokenizer=tokenizer,
            teacher_vocabulary=teacher.vocab_size,
            teacher_tokenizer=teacher.tokenizer,
        )
        require_temperature(temperature)
        if teacher.temperature not in (None, temperature):
            raise IncompatibleError(
                f"the teacher's cache is of temperature {teacher.temperature}, not {temperature}: use that one or "
                "compute the cache again"
            )
        if not 0 <= weight <= 1 or not hidden_weight >= 0:
            raise ConfigError("Distillation.weight must be from 0 to 1, and hidden_weight not negative")
        self.teacher, self.temperature = teacher, temperature
        self.weight, self.hidden_weight = weight, hidden_weight
        self.hidden: HiddenStateLoss | None = None
        if layer_map is not None:
            if not isinstance(teacher, LiveTeacher):
                raise IncompatibleError("hidden states are not cached: use a LiveTeacher, or no layer_map")
            self.hidden = HiddenStateLoss(student, teacher.model.config, layer_map)
        self.last: Parts | None = None
        self._collected: Parts | None = None

    def collect(self) -> Parts | None:
        """Sums of the parts of all batches since the last call, as of an update; None without any."""
        collected, self._collected = self._collected, None
        return collected

    def forward(self, model: Transformer, batch: Batch, *, n_targets: int) -> Losses:
        """As `losses_on`, on a batch on the student's device; `next_token` is the weighted sum of all parts."""
        packing = {"positions_BS": batch.positions_BS, "documents_BS": batch.documents_BS}
        is_scored_BS = scored(batch)
        with hidden_states(model, () if self.hidden is None else self.hidden.layer_map) as states:
            x_BSD = model.hidden(batch.tokens_BS, **packing)
        logits_NV = model.logits(x_BSD[is_scored_BS])
        distributions, teacher_states = self._ask(batch)
        share = is_scored_BS.sum() / n_targets
        target = (
            F.cross_entropy(logits_NV.float(), batch.targets_BS[is_scored_BS], reduction="sum") / n_targets
        )
        divergence = kl_divergence(logits_NV, distributions, self.temperature).sum() / n_targets
        total = (1 - self.weight) * target + self.weight * divergence
        hidden = None
        if self.hidden is not None:
            hidden = share * self.hidden(states, teacher_states, is_scored_BS)
            total = total + self.hidden_weight * hidden
        self.last = Parts(target.detach(), divergence.detach(), None if hidden is None else hidden.detach())
        self._collected = _sum(self._collected, self.last)
        return Losses(total, mtp_loss_on(model, x_BSD, batch, packing, n_targets=n_targets))

    def _ask(self, batch: Batch) -> tuple[Tensor | TopK, States]:
        if self.hidden is None:
            return self.teacher.distributions(batch), {}
        assert isinstance(self.teacher, LiveTeacher)
        return self.teacher.observe(batch, set(self.hidden.layer_map.values()))


def _sum(before: Parts | None, added: Parts) -> Parts:
    if before is None:
        return added
    hidden = None if before.hidden is None or added.hidden is None else before.hidden + added.hidden
    return Parts(before.target + added.target, before.divergence + added.divergence, hidden)
