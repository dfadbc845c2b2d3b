#!/usr/bin/env python
"""Django's command line for the platform: puts `platform/` on the path and names the settings."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent / "platform"))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gainshare.config.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
