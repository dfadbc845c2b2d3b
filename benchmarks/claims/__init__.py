"""`python -m benchmarks.claims`: what the MoE stack claims, measured on this machine. DESIGN.md, section 5.

Each claim has one file: its settings at both scales, how it is measured, and the decision, which takes plain figures and
returns rows. Work that needs torch runs as jobs in fresh processes (`job.py`), whose results are kept by the content of
their settings and of the stack's source (`bench.py`), so that a run that was killed continues where it was.
"""
