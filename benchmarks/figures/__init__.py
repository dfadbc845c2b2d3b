"""Figures of single parts of the stack, each a command: `python -m benchmarks.figures.experts`."""
