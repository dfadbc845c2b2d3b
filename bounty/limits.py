"""The app's fixed limits, in one place. What differs between machines is in the settings."""

from datetime import timedelta

MAX_DIFF_CHARS = 1_048_576  # the longest diff that benchmarks.patch.patches parses
MAX_LOG_CHARS = 1_000_000  # of one run; the rest is dropped with a note
MAX_LOG_POST_CHARS = 256 * 1024
LOG_PAGE_CHARS = 64 * 1024
MAX_REJECTIONS = 50  # rejected diffs per person and bounty; they take no runner's time
TREES_PER_HOUR = 120  # per person, except maintainers, because new files are stored permanently

WAKE_AGAIN_AFTER = timedelta(seconds=5)  # a queued run's wake-up is sent again only after this
RECENT = timedelta(hours=1)  # how long a run counts in the fair order of its author
ORDER_WAIT = timedelta(hours=2)  # how long a measured submission waits for those of its series sealed earlier
EVENTS_WAIT = timedelta(
    minutes=15
)  # how long bookings wait at most while events of pull requests are missing
HEADS_PER_DAY = 50  # heads of pull requests that are sealed per author and lineage; as many as rejected diffs
NEW_ACCOUNT_PLACES = 5  # runs that may start before the first run of a new account, out of turn
NEW_ACCOUNT_WAIT = timedelta(minutes=10)  # ... and for how long after the first of them
RUNNER_ALIVE = timedelta(hours=1)  # an idle runner sends nothing; one seen within this time counts as present
DEVICE_WAIT_ALIVE = timedelta(minutes=2)  # a runner that waits for its device reports it every 20 s
OTHER_HOST_WAIT = timedelta(minutes=2)  # how long a second measurement waits for another host

UNCLAIMED_AFTER = timedelta(
    days=90
)  # an award of somebody who never signed in goes back to escrow after this
REVERSAL_WINDOW = timedelta(
    days=14
)  # an unvested royalty is lost if its gain is reversed within this; then it vests

MAX_DISPUTES = 5  # per person and bounty: each one takes a maintainer's time
MAX_DISPUTE_CHARS = 10_000
