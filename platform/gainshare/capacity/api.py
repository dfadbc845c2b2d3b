"""REST of the pool, below /api/v1/. Each room brings its own addresses."""

from django.urls import URLPattern, URLResolver, include, path

urlpatterns: list[URLPattern | URLResolver] = [
    path("", include("gainshare.capacity.hosts.api")),
    path("", include("gainshare.capacity.scaling.api")),
    path("", include("gainshare.capacity.pool.api")),
    path("", include("gainshare.capacity.deployments.api")),
]
