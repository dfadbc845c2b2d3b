"""The site's only settings file. Every value that differs between machines comes from the environment.

Local mode (`gainshare up`) sets these variables itself; production sets them by hand; this file is their list.
"""

from pathlib import Path

from gainshare.config.env import Env, postgres_settings

env = Env()

ROOT = Path(__file__).resolve().parents[3]
HOME = env.path("GAINSHARE_HOME", ROOT / ".gainshare")

# -- Web --------------------------------------------------------------------------------------------
SECRET_KEY = env.secret("GAINSHARE_SECRET_KEY")
DEBUG = env.flag("GAINSHARE_DEBUG", default=False)
ALLOWED_HOSTS = env.words("GAINSHARE_ALLOWED_HOSTS", ["127.0.0.1", "localhost", "[::1]"])
PUBLIC_URL = env.text("GAINSHARE_URL", "http://127.0.0.1:8000")
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL]
ROOT_URLCONF = "gainshare.config.urls"
ASGI_APPLICATION = "gainshare.config.asgi.application"
LOGIN_URL = "/login/"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
# A year; sent over https only. Not for subdomains, which may belong to others.
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if PUBLIC_URL.startswith("https://") else 0
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = PUBLIC_URL.startswith("https://")
AUTHENTICATION_BACKENDS = ["gainshare.accounts.entrance_limits.LimitedModelBackend"]
# By address (IPv6: by /64): accounts made, and passwords tried. By account: wrong passwords from unknown
# addresses, and from each known one. Behind a proxy, FORWARDED_ALLOW_IPS must name it to uvicorn, else all
# share one address.
SIGN_UPS_PER_HOUR = env.integer("GAINSHARE_SIGN_UPS_PER_HOUR", 60, minimum=1)
# Over all addresses; above it, new accounts wait their turn.
ALL_SIGN_UPS_PER_HOUR = env.integer("GAINSHARE_ALL_SIGN_UPS_PER_HOUR", 240, minimum=1)
# Accounts that GitHub has for so long do not wait.
GITHUB_LEAST_DAYS = env.integer("GAINSHARE_GITHUB_LEAST_DAYS", 30, minimum=0)
SIGN_INS_PER_HOUR = env.integer("GAINSHARE_SIGN_INS_PER_HOUR", 120, minimum=1)
WRONG_PASSWORDS_PER_HOUR = env.integer("GAINSHARE_WRONG_PASSWORDS_PER_HOUR", 20, minimum=1)
OPEN_SIGNUP = env.flag("GAINSHARE_OPEN_SIGNUP", default=True)
DATA_UPLOAD_MAX_MEMORY_SIZE = 64 * 1024 * 1024
# Bytes of a request's body, by the beginning of its address. Evidence with its raw samples is the largest; a patch has
# at most a million characters.
BODY_LIMITS = {
    "/": 8 * 1024 * 1024,
    "/api/v1/runner/": 96 * 1024 * 1024,
    "/api/v1/agent/": 64 * 1024,
    "/api/v1/agent/canaries/": 16 * 1024 * 1024,
}

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "gainshare.accounts",
    "gainshare.ledger",
    "gainshare.capacity",
    "gainshare.gateway",
    "gainshare.web",
    "gainshare.local",
    "bounty",
]

MIDDLEWARE = [
    "gainshare.web.http.content_security.ContentSecurityMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "gainshare.web.http.compression.CompressionMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "gainshare.web.http.refusals.RefusalsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

STATIC_URL = "/static/"
STATIC_ROOT = HOME / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
WHITENOISE_USE_FINDERS = True
WHITENOISE_ALLOW_ALL_ORIGINS = False
WHITENOISE_ROOT = Path(__file__).resolve().parents[1] / "web" / "root"  # files with conventional addresses

# -- Data -------------------------------------------------------------------------------------------
DATABASES = {"default": postgres_settings(env.text("DATABASE_URL", "postgresql:///gainshare"))}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_USER_MODEL = "accounts.User"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
BLOB_ROOT = env.path("GAINSHARE_BLOB_ROOT", HOME / "blobs")

# -- Repositories that lineages are bound to ---------------------------------------------------------
REPOSITORY_ROOT = env.path("GAINSHARE_REPOSITORY_ROOT", HOME / "repositories")
REPOSITORY_POLL_S = env.integer("GAINSHARE_REPOSITORY_POLL_S", 60, minimum=5)
# Plain http is for repositories on the own machine. Every other protocol is refused.
REPOSITORY_PROTOCOLS = (
    ["https", "http"] if env.flag("GAINSHARE_REPOSITORY_HTTP", default=False) else ["https"]
)

# -- GitHub: without an App no pull request is seen, and without a client no one signs in with GitHub ----------
GITHUB_URL = env.text("GAINSHARE_GITHUB_URL", "https://github.com").rstrip("/")  # of OWNER/NAME
GITHUB_API_URL = env.text("GAINSHARE_GITHUB_API_URL", "https://api.github.com").rstrip("/")
GITHUB_APP_ID = env.text("GAINSHARE_GITHUB_APP_ID", "")
GITHUB_PRIVATE_KEY = env.secret("GAINSHARE_GITHUB_PRIVATE_KEY", default="")
# Two, so that a secret can be renewed: both are taken while GitHub still signs with the old one.
GITHUB_WEBHOOK_SECRETS = [
    secret
    for name in ("GAINSHARE_GITHUB_WEBHOOK_SECRET", "GAINSHARE_GITHUB_WEBHOOK_SECRET_OLD")
    if (secret := env.secret(name, default=""))
]
GITHUB_CLIENT_ID = env.text("GAINSHARE_GITHUB_CLIENT_ID", "")
GITHUB_CLIENT_SECRET = env.secret("GAINSHARE_GITHUB_CLIENT_SECRET", default="")

# -- Time and language ------------------------------------------------------------------------------
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
USE_I18N = False

# -- REST -------------------------------------------------------------------------------------------
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "gainshare.accounts.authentication.ApiKeyAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticatedOrReadOnly"],
    "DEFAULT_PAGINATION_CLASS": "gainshare.accounts.parsing.BoundedPagination",
    "PAGE_SIZE": 50,
    "DEFAULT_FILTER_BACKENDS": ["gainshare.accounts.queries.StatedFilters"],
    "DEFAULT_SCHEMA_CLASS": "gainshare.accounts.schema.ApiSchema",
    "EXCEPTION_HANDLER": "gainshare.accounts.errors.exception_handler",
    "DEFAULT_PARSER_CLASSES": ["gainshare.accounts.parsing.BoundedJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Gainshare API",
    "DESCRIPTION": "Make the model faster, get paid in the model.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "DEFAULT_GENERATOR_CLASS": "gainshare.accounts.schema.DocumentGenerator",
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "gainshare.accounts.schema.add_refusals",
        "gainshare.gateway.schema.add_model_access",
    ],
    "TAGS": [
        {
            "name": "models",
            "description": "Model access, compatible with OpenAI's clients. Every call needs a key.",
        },
        {"name": "users", "description": "Sign-up, your account, roles."},
        {"name": "keys", "description": "Your API keys."},
        {"name": "credits", "description": "Your balance and transfers."},
        {"name": "usage", "description": "Your requests to models, each with its bill."},
        {"name": "bounties", "description": "Wanted improvements and what they pay."},
        {
            "name": "submissions",
            "description": "Patches, their verdicts, and people's decisions.",
        },
        {"name": "reproductions", "description": "Files that show a bug."},
        {"name": "disputes", "description": "Objections to a verdict."},
        {"name": "runs", "description": "Measurements, their logs and their evidence."},
        {"name": "awards", "description": "Awards that were paid or will be."},
        {"name": "trees", "description": "Versions of the stack's files."},
        {"name": "lineages", "description": "Lines of trees that grow by merges."},
        {
            "name": "github",
            "description": "The connection with GitHub: the App, its installations, its events.",
        },
        {"name": "runners", "description": "The machines that judge, and maintainers' actions on them."},
        {"name": "false-awards", "description": "How often runners find a gain that is not there."},
        {"name": "reversals", "description": "Branches that took a merged gain back (maintainers)."},
        {"name": "royalties", "description": "What your gains earned where they are served, by day."},
        {"name": "slow-bases", "description": "Bases in doubt, and decisions about them (maintainers)."},
        {"name": "switches", "description": "Emergency stops of judging, awards and merges."},
        {"name": "treasury", "description": "Credits that belong to the platform (maintainers)."},
        {"name": "grants", "description": "Credits given to people (maintainers)."},
        {"name": "prices", "description": "Prices of tokens; versions are immutable."},
        {
            "name": "capacity",
            "description": "The pool: classes of devices, hosts, nodes, served models and decisions.",
        },
        {"name": "agent", "description": "Calls of the node agents themselves, with a host's token."},
        {"name": "audit", "description": "The ledger's invariants (maintainers)."},
        {"name": "runner", "description": "Calls of the runners themselves, with a runner token."},
    ],
    "ENUM_NAME_OVERRIDES": {
        "AwardRole": "bounty.models.awards.AwardRole",
        "AwardState": "bounty.models.awards.AwardState",
        "BountyState": "bounty.models.bounties.BountyState",
        "DeploymentState": "gainshare.capacity.models.deployments.DeploymentState",
        "DisputeState": "bounty.models.disputes.DisputeState",
        "RepricingState": "bounty.models.repricings.RepricingState",
        "ReproductionState": "bounty.models.reproductions.ReproductionState",
        "UserRole": "gainshare.accounts.models.Role",
        "RunKind": "bounty.models.runs.RunKind",
        "RunState": "bounty.models.runs.RunState",
        "QuarantineCause": "bounty.models.runners.QuarantineCause",
        "RunnerState": "bounty.models.runners.RunnerState",
        "SubmissionState": "bounty.models.submissions.SubmissionState",
        "Switch": "bounty.models.switches.Switch",
        "TipCheckOutcome": "bounty.models.tip_checks.TipCheckOutcome",
        "TransferKind": "gainshare.ledger.kinds.TransferKind",
        "TransferState": "gainshare.ledger.kinds.TransferState",
    },
}

# -- Credits ----------------------------------------------------------------------------------------
# A page asks for confirmation before it moves more than this share of all credits ever issued.
LARGE_SUM_PERCENT = env.integer("GAINSHARE_LARGE_SUM_PERCENT", 25, minimum=0)

# -- Queues -----------------------------------------------------------------------------------------
BROKER_URL = env.text("BROKER_URL", "redis://127.0.0.1:6379/0")
CELERY_BEAT_INTERVAL_S = env.integer("GAINSHARE_BEAT_INTERVAL_S", 5, minimum=1)

# -- Judging ----------------------------------------------------------------------------------------
RUN_LEASE_S = env.integer("GAINSHARE_RUN_LEASE_S", 60, minimum=1)
RUN_MAX_ATTEMPTS = env.integer("GAINSHARE_RUN_MAX_ATTEMPTS", 3, minimum=1)
# Percentage of confirmed gains that are measured again, at random, during review.
RECHECK_PERCENT = env.integer("GAINSHARE_RECHECK_PERCENT", 10, minimum=0, maximum=100)
# Rejected diffs per person and hour that are stored; further ones are refused until later.
REJECTIONS_PER_HOUR = env.integer("GAINSHARE_REJECTIONS_PER_HOUR", 10, minimum=1)
AA_INTERVAL_S = env.integer(
    "GAINSHARE_AA_INTERVAL_S", 6 * 3600, minimum=60
)  # interval of each runner's A/A runs
# Interval between two checks of the merged trees of a series.
TIP_CHECK_INTERVAL_S = env.integer("GAINSHARE_TIP_CHECK_INTERVAL_S", 24 * 3600, minimum=60)

# -- Model access -----------------------------------------------------------------------------------
MODEL_NODES = env.words("GAINSHARE_MODEL_NODES", [])
MODEL_NODE_TOKEN = env.secret("GAINSHARE_NODE_TOKEN", default="")
HOLD_S = env.integer("GAINSHARE_HOLD_S", 600, minimum=1)
# Requests that one static node answers at the same time; further ones wait in front of it.
NODE_SLOTS = env.integer("GAINSHARE_NODE_SLOTS", 64, minimum=1)
# Requests that one account may have in flight, over all web processes.
ACCOUNT_REQUESTS = env.integer("GAINSHARE_ACCOUNT_REQUESTS", 64, minimum=1)
# Requests that may wait in front of the nodes of one model, and for how long.
QUEUE_REQUESTS = env.integer("GAINSHARE_QUEUE_REQUESTS", 256, minimum=0)
QUEUE_S = env.integer("GAINSHARE_QUEUE_S", 180, minimum=1)

# -- Capacity ---------------------------------------------------------------------------------------
# A host that was silent for so long has lost its nodes: nothing is sent there any more.
HOST_LOST_S = env.integer("GAINSHARE_HOST_LOST_S", 10, minimum=2)
# Seconds between two passes of the control loop that scales served models.
SCALE_INTERVAL_S = env.integer("GAINSHARE_SCALE_INTERVAL_S", 2, minimum=1)
# Seconds between two looks at deployments; heartbeats and evidence move them on at once as well.
DEPLOY_INTERVAL_S = env.integer("GAINSHARE_DEPLOY_INTERVAL_S", 3, minimum=1)
# A canary that takes longer is begun again, and a deployment whose nodes are not ready after so long is given up.
CANARY_LIMIT_S = env.integer("GAINSHARE_CANARY_LIMIT_S", 3600, minimum=10)
HANDOVER_LIMIT_S = env.integer("GAINSHARE_HANDOVER_LIMIT_S", 900, minimum=10)
# Functions that capacity asks, which imports neither bounty nor the gateway: a tree's manifest by its hash (None:
# unknown), and the lengths of a model's latest requests (`gainshare.capacity.lengths`).
DEPLOYED_TREES = "bounty.services.deployments.tips.manifest_of"
RECENT_LENGTHS = "gainshare.gateway.lengths.recent_lengths"
# Ray cluster for served models with the actuator ray, and the agent's command on its machines.
RAY_ADDRESS = env.text("GAINSHARE_RAY_ADDRESS", "auto")
RAY_AGENT_COMMAND = env.text("GAINSHARE_RAY_AGENT_COMMAND", "python -m gainshare.capacity.agent").split()
# Function that lists the runners of the pool's page, and bounty's side of lent devices. Named here, because capacity
# imports nothing of bounty.
CAPACITY_RUNNERS = "bounty.services.runners.pool.pool_runners"
# The tree before a deployment is kept for so long, for requests that name it.
FORMER_TREE_S = env.integer("GAINSHARE_FORMER_TREE_S", 86_400, minimum=0)
# Function that lists who shares in what a model's deployments save: `gainshare.gateway.prices.gains`.
GAIN_SHARES = "bounty.services.royalties.shares.gain_shares"
# Function that begins the shares of a model's deployments that have none yet.
BEGIN_SHARES = "bounty.services.royalties.schedule.note_deployments"
# Who lends idle serving devices to judging, and what ends a run whose device is taken back.
DEVICE_LENDER = "gainshare.capacity.pool.lender.DeviceLender"
DEVICE_BORROWER = "bounty.services.runners.lending.end_runs"
# A loan that its runner does not renew ends after this; a run's lease must end before it.
LOAN_LEASE_S = RUN_LEASE_S + env.integer("GAINSHARE_LOAN_LEASE_S", 60, minimum=5)
# A recalled device is back within this, and beat's interval of 5 s: 30 s at most.
LOAN_RECALL_S = env.integer("GAINSHARE_LOAN_RECALL_S", 25, minimum=2, maximum=25)
# No device is offered for so long after serving used it, or recalled one of its class.
LOAN_QUIET_S = env.integer("GAINSHARE_LOAN_QUIET_S", 60, minimum=0)

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": env.text("GAINSHARE_LOG_LEVEL", "INFO")},
    "loggers": {
        "httpx": {"level": "WARNING"}
    },  # otherwise two lines for each request that the gateway forwards
}
