"""`python -m model.parallel.placement measure|simulate`: rates of a device, and the times of a placement."""

import sys

from model.parallel.placement.parts import main

sys.exit(main())
