"""Training of the stack's models: loss, optimiser, one step at a time. Knows nothing of data, files or ranks."""
