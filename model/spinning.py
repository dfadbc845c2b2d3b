"""Shorten how long OpenMP's threads spin while they wait. Import it before torch; the import alone has the effect.

By default GNU's OpenMP spins for milliseconds at the end of each parallel part before it sleeps, several hundred times per
step. Where anything else wants the core, that spinning keeps the very thread away that is waited for: beside two busy
processes on two cores a node answered 0.6 tokens per second, with this 19 (docs/lab/engine-log.md). It sleeps after half a
millisecond of waiting where a turn takes 28 ns, as on an EPYC of family 25.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "20000")
