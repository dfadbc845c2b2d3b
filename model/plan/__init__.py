"""Planner: a closed-form model of the memory and time of a model on a mesh and a cluster.

`python -m model.plan --params 1e12 --devices 256` searches the layouts. Nothing here imports torch but `measure.py`,
which checks the formulas against real shards, saved tensors and counted messages.
"""
