"""Distillation: a student is trained on the output distribution of a teacher, another model over the same tokens.

    teacher = CachedTeacher.open(folder)     # or LiveTeacher(model, tokenizer=...)
    distillation = Distillation(teacher, student.config, tokenizer=...)
    losses = distillation(student, batch, n_targets=batch.n_targets)

`divergence.py` compares distributions of tokens, `hidden.py` hidden states; `teacher.py` runs a teacher, `cache.py`
keeps its outputs on disk, `precompute.py` fills that; `identity.py` checks that two models share token ids;
`objective.py` adds the losses up. Teacher and student may differ in everything but their tokens.
`python -m model.distill` fills the cache that a run's file names (`fill.py`), see docs/how-to/distil-from-a-teacher.md.
"""

from model.distill.cache import CachedTeacher
from model.distill.divergence import TopK, kl_divergence, top_k_of
from model.distill.errors import CacheError, IncompatibleError
from model.distill.hidden import HiddenStateLoss, even_layer_map
from model.distill.identity import model_sha256, tokenizer_sha256
from model.distill.objective import Distillation
from model.distill.precompute import precompute
from model.distill.teacher import LiveTeacher, Teacher

__all__ = [
    "CacheError",
    "CachedTeacher",
    "Distillation",
    "HiddenStateLoss",
    "IncompatibleError",
    "LiveTeacher",
    "Teacher",
    "TopK",
    "even_layer_map",
    "kl_divergence",
    "model_sha256",
    "precompute",
    "tokenizer_sha256",
    "top_k_of",
]
