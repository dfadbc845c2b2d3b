"""Which ways of counting are good enough for a suite's awards.

Polls and readings see neither what was given back between two of them nor, where only processes are counted, files in
scratch folders and buffers of sockets and pipes. A patch that moves its memory there would seem to have saved it.
"""

from collections.abc import Mapping

from benchmarks.catalogue import SUITES
from benchmarks.evidence.schema import CGROUPS


def is_counted_for_awards(suite: str, counted_by: Mapping[str, str]) -> bool:
    """Whether runs of the suite that were counted so may earn awards; unknown suites are refused elsewhere."""
    info = SUITES.get(suite)
    return info is None or not info.needs_peak_counter or counted_by["memory"] in CGROUPS
