"""Training of the stack's models: loss, optimiser, one step at a time."""

from model import spinning as _spinning  # noqa: F401 - before torch is imported
