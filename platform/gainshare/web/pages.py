"""URLconf of the shell's pages, and its navigation entries."""

from django.contrib.auth.views import LogoutView
from django.urls import path

from gainshare.web import home_parts, navigation, next_steps
from gainshare.web.navigation import Audience, NavEntry
from gainshare.web.views import (
    amount_reading,
    api,
    deployments,
    entrance,
    github,
    grants,
    keys,
    people,
    playground,
    pool,
    price_proposal,
    prices,
    scaling,
    serving_cost,
    treasury,
    usage,
    wallet,
)

navigation.register(NavEntry("Playground", "playground", 30, Audience.SIGNED_IN))
navigation.register(NavEntry("Pool", "pool", 26, Audience.SIGNED_IN))
navigation.register(NavEntry("Deployments", "deployments", 27))
navigation.register(NavEntry("Credits", "credits", 40, Audience.SIGNED_IN))
navigation.register(NavEntry("Usage", "usage", 50, Audience.SIGNED_IN))
navigation.register(NavEntry("Keys", "keys", 60, Audience.SIGNED_IN))
navigation.register(NavEntry("Treasury", "treasury", 65, Audience.MAINTAINERS))
navigation.register(NavEntry("Prices", "prices", 64, Audience.MAINTAINERS))
navigation.register(NavEntry("People", "people", 66, Audience.MAINTAINERS))
navigation.register(NavEntry("Scaling", "scaling", 68, Audience.MAINTAINERS))
navigation.register(NavEntry("API docs", "api-docs", 70))
navigation.register(NavEntry("Admin", "admin:index", 90, Audience.STAFF))
home_parts.register_steps("web", next_steps.own_steps, position=20)

urlpatterns = [
    path("", entrance.home, name="home"),
    path("api/docs/", api.api_docs, name="api-docs"),
    path("api/reference/", api.api_reference, name="api-reference"),
    path("login/", entrance.LogIn.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("signup/", entrance.sign_up, name="signup"),
    path("account/", entrance.account, name="account"),
    path("github/start/", github.start, name="github-start"),
    path("github/callback/", github.callback, name="github-callback"),
    path("github/welcome/", github.welcome, name="github-welcome"),
    path("account/password/", entrance.ChangePassword.as_view(), name="password"),
    path("keys/", keys.keys, name="keys"),
    path("keys/<str:prefix>/", keys.key_shown_once, name="key"),
    path("keys/<str:prefix>/revoke/", keys.revoke, name="key-revoke"),
    path("credits/", wallet.credits_page, name="credits"),
    path("credits/read/", amount_reading.read, name="credits-read"),
    path("treasury/", treasury.treasury, name="treasury"),
    path("treasury/grants/", grants.grants, name="grants"),
    path("prices/", prices.prices, name="prices"),
    path("prices/proposals/<str:model>/", price_proposal.price_proposal, name="price-proposal"),
    path("people/", people.people, name="people"),
    path("pool/", pool.pool, name="pool"),
    path("pool/classes/", pool.new_class, name="pool-class-new"),
    path("pool/classes/<slug:name>/", pool.edit_class, name="pool-class"),
    path("scaling/", scaling.scaling, name="scaling"),
    path("scaling/<str:name>/", scaling.scaling_model, name="scaling-model"),
    path("deployments/", deployments.deployments, name="deployments"),
    path("deployments/<uuid:deployment_id>/", deployments.deployment, name="deployment"),
    path("deployments/<uuid:deployment_id>/rollback/", deployments.rollback, name="deployment-rollback"),
    path("serving-cost/", serving_cost.serving_cost, name="serving-cost"),
    path("usage/", usage.usage, name="usage"),
    path("usage/<uuid:request_id>/", usage.usage_detail, name="usage-detail-page"),
    path("usage/<uuid:request_id>/live/", usage.usage_live, name="usage-live"),
    path("playground/", playground.playground, name="playground"),
    path("playground/balance/", playground.playground_balance, name="playground-balance"),
]
