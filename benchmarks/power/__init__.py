"""How often the judge is wrong, and what a rational contributor could make of it: by simulation, and measured.

`python -m benchmarks.power` simulates; `python -m benchmarks.power real` measures on this machine. Nothing here decides
a verdict.
"""
