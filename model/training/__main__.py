"""`python -m model.training`: what `gainshare train` starts."""

import sys

from model.training.command import main

sys.exit(main(sys.argv[1:]))
