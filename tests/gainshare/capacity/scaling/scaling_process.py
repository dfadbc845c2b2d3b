"""One pass of the control loop in a process of its own, to be killed in the middle."""

import os
import sys

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gainshare.config.settings")
django.setup()

from django.utils import timezone  # noqa: E402 - Django is set up first

from gainshare.capacity.scaling.loop import scale  # noqa: E402

if __name__ == "__main__":
    scale(int(sys.argv[1]), timezone.now())
