"""Naive scorers of the kind found in the wild, the red team's positive controls. Not to be used for anything else.

Each file but `layer.py`, `worker.py`, `scoring.py`, `trials.py` and `applying.py` is one program that runs inside a sandbox and never in the judge.
They make the mistakes that the judge must not make: that is their purpose.
"""
