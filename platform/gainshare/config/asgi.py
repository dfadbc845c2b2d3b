"""The ASGI entry point: `uvicorn gainshare.config.asgi:application`."""

import os

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.utils.module_loading import import_string

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gainshare.config.settings")

site = import_string("gainshare.web.http.body_limit.with_body_limit")(
    get_asgi_application(), settings.BODY_LIMITS
)
# Runners are authenticated before their large bodies are read.
site = import_string("bounty.runner_door.with_runner_door")(site)
# Model access goes past the site's middleware; named by string, as the settings name the apps.
application = import_string("gainshare.gateway.asgi.with_gateway")(site)
