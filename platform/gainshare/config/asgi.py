"""The ASGI entry point: `uvicorn gainshare.config.asgi:application`."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gainshare.config.settings")

application = get_asgi_application()
