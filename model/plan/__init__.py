"""Where a training run fits and how fast it can be: a closed-form cost model of model, mesh and cluster.

`python -m model.plan --params 1e12 --devices 256` searches the layouts. Nothing here imports torch but `measure.py`,
which checks the formulas against real shards, saved tensors and counted messages.
"""
