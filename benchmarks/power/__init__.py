"""Error rates of the judge, and what a rational contributor could gain from them: by simulation, and measured.

`python -m benchmarks.power` simulates; `python -m benchmarks.power real` measures on this machine. Nothing here decides
a verdict.
"""
