"""REST of the pool, below /api/v1/. Each room brings its own addresses."""

from django.urls import URLPattern, URLResolver

urlpatterns: list[URLPattern | URLResolver] = []
