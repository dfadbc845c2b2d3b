"""A training run: trainer, engine, state, checkpoints, data, and how it ends."""
