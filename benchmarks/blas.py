"""Keeps the judge's linear algebra on one thread. Import it before numpy; importing it is all there is to do.

While it measures, the judge stays on one core: more BLAS threads would only wait for each other there.
"""

import os

for _name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
