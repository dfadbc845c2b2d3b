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
RUNNER_ALIVE = timedelta(hours=1)  # an idle runner sends nothing; one seen within this time counts as present
DEVICE_WAIT_ALIVE = timedelta(minutes=2)  # a runner that waits for its device reports it every 20 s
OTHER_HOST_WAIT = timedelta(minutes=2)  # how long a second measurement waits for another host

MAX_DISPUTES = 5  # per person and bounty: each one takes a maintainer's time
MAX_DISPUTE_CHARS = 10_000
