"""The app's fixed limits, in one place. What differs between machines is in the settings."""

from datetime import timedelta

MAX_DIFF_CHARS = 1_048_576  # as long a diff as benchmarks.patch.patches reads
MAX_LOG_CHARS = 1_000_000  # of one run; the rest is dropped with a note
MAX_LOG_POST_CHARS = 256 * 1024
LOG_PAGE_CHARS = 64 * 1024
MAX_REJECTIONS = 50  # rejected diffs per person and bounty: they cost no runner, only patience
TREES_PER_HOUR = (
    120  # of one person who is no maintainer: each may keep a diff's length of new files for good
)
MAX_EVIDENCE_BYTES = 64 * 1024 * 1024

WAKE_AGAIN_AFTER = timedelta(seconds=5)  # a queued run's wake-up is sent again only after this
RECENT = timedelta(hours=1)  # how long a run counts against its person's turn
RUNNER_ALIVE = timedelta(hours=1)  # an idle runner asks for nothing; one seen within this counts as there
DEVICE_WAIT_ALIVE = timedelta(minutes=2)  # a runner that waits for its device says so every 20 s
OTHER_HOST_WAIT = timedelta(
    minutes=2
)  # how long a second measurement waits for another host than the first's

MAX_DISPUTES = 5  # per person and bounty: each one takes a maintainer's time
MAX_DISPUTE_CHARS = 10_000
