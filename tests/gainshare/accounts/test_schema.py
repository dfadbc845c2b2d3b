"""The OpenAPI schema describes accounts, ledger and model access without a warning."""

import pytest
from django.urls import include, path
from drf_spectacular.drainage import GENERATOR_STATS
from drf_spectacular.generators import SchemaGenerator

urlpatterns = [
    path("api/v1/", include("gainshare.accounts.api")),
    path("api/v1/", include("gainshare.ledger.api")),
]


@pytest.mark.urls(__name__)
def test_the_schema_has_every_endpoint_and_no_warnings() -> None:
    GENERATOR_STATS.reset()
    schema = SchemaGenerator(patterns=urlpatterns).get_schema(public=True)
    assert not GENERATOR_STATS
    operations = {
        f"{method} {where}": operation
        for where, methods in schema["paths"].items()
        for method, operation in methods.items()
    }
    assert set(operations) == {
        "post /api/v1/users/",
        "get /api/v1/users/me/",
        "post /api/v1/users/{username}/role/",
        "get /api/v1/keys/",
        "post /api/v1/keys/",
        "delete /api/v1/keys/{prefix}/",
        "get /api/v1/credits/",
        "get /api/v1/treasury/",
        "post /api/v1/treasury/fund/",
        "post /api/v1/grants/",
        "get /api/v1/prices/",
        "post /api/v1/prices/",
        "get /api/v1/audit/",
        "get /v1/models",
        "get /v1/models/{model}",
        "post /v1/chat/completions",
        "post /v1/completions",
    }
    assert all(operation.get("summary") for operation in operations.values())
    assert schema["components"]["securitySchemes"]["apiKey"]["scheme"] == "bearer"
