"""Root URLconf of the site. Apps are named by string, because the shell does not import them."""

from django.contrib import admin
from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView

urlpatterns = [
    path("admin/", admin.site.urls),
    path("v1/", include("gainshare.gateway.api")),
    path("playground/api/", include("gainshare.gateway.playground")),
    path("api/v1/", include("gainshare.accounts.api")),
    path("api/v1/", include("gainshare.ledger.api")),
    path("api/v1/", include("gainshare.gateway.usage")),
    path("api/v1/", include("gainshare.capacity.api")),
    path("api/v1/", include("gainshare.gateway.cost_api")),
    path("api/v1/", include("bounty.api")),
    path("api/v1/runner/", include("bounty.runner_api")),
    path("api/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("", include("gainshare.web.pages")),
    path("", include("bounty.pages")),
    path("api/", include("gainshare.web.http.unknown")),
]

handler400 = "gainshare.web.http.refusals.bad_request"
handler403 = "gainshare.web.http.refusals.denied"
handler404 = "gainshare.web.http.refusals.not_found"
handler500 = "gainshare.web.http.refusals.failed"
