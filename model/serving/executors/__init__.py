"""What computes an engine's step: compiled kernels, plain torch, CUDA graphs, and their weights."""
