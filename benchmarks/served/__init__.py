"""From merge to cheaper tokens, measured on a whole local stack: `python -m benchmarks.served`.

Trees are deployed one after the other while requests run: how long each takes from the request until it serves, how long
its canary, and how many requests failed meanwhile. A measured gain's saving is shown with its suite's bound.
"""
