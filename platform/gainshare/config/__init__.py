"""Settings, URLs, ASGI and Celery of the site. Imports none of the project's own code; names apps by string."""
