"""REST of the pool, below /api/v1/. Each room brings its own addresses."""

from django.urls import URLPattern, URLResolver

from gainshare.capacity.pool import api as pool

urlpatterns: list[URLPattern | URLResolver] = [
    *pool.urlpatterns,
]
