"""The layout that a tree must have to be measured: the modules of `model` that the suites' samples import.

Moving one of them makes every tree from before unmeasurable. Pure: knows paths, no contents and no database.
"""

from collections.abc import Iterable

# Exactly what `benchmarks/suites/samples/*_sample.py` and the files sent with them import; a test compares the two.
SAMPLE_MODULES: tuple[str, ...] = (
    "model.checkpoint",
    "model.config",
    "model.layers.moe.layer",
    "model.serving.engine.blocks",
    "model.serving.engine.scheduler",
    "model.serving.engine.sequence",
    "model.serving.executors.base",
    "model.serving.executors.choice",
    "model.serving.metering.generation",
    "model.training.config.recipe",
    "model.training.run.trainer",
    "model.transformer",
)


def missing_modules(paths: Iterable[str]) -> tuple[str, ...]:
    """The modules that the samples import and a tree of these paths lacks, as file or as package, sorted."""
    present = frozenset(paths)
    return tuple(name for name in SAMPLE_MODULES if present.isdisjoint(_files_of(name)))


def _files_of(module: str) -> tuple[str, str]:
    path = module.replace(".", "/")
    return f"{path}.py", f"{path}/__init__.py"
