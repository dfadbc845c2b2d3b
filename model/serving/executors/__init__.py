"""Executors of the engine's steps: compiled kernels, plain torch, CUDA graphs, and their weights."""
