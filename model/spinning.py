"""Shorten how long OpenMP's threads spin while they wait. Import it before torch; the import alone has the effect.

By default GNU's OpenMP spins for milliseconds at the end of each parallel region before it sleeps, several hundred times
per step. If another process needs the core, spinning delays the very thread that is waited for: next to two busy
processes on two cores a node generated 0.6 tokens per second, with this setting 19 (docs/lab/engine-log.md). The setting
is half a millisecond where a turn takes 28 ns, as on an EPYC of family 25.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "20000")
