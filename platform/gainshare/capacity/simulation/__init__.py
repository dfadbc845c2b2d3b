"""Discrete-event simulation of a pool under a trace: cost and latency of each policy. Pure."""
