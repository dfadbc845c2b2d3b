"""Royalties: a lineage's law, the terms of served gains, and their daily pay from revenue.

`terms` begins and ends them, `days` pays one day, `schedule` is what beat runs, `contents` knows which gains a tree has.
"""

from bounty.services.royalties.terms import note_deployment

__all__ = ["note_deployment"]
