"""Merges that were made on GitHub, acceptances that were given there, and branches that take a merged gain back.

A push only brings code. Whether an award vests, is taken back or is paid again is decided by maintainers of this site.
"""

from bounty.github.merging.reconciler import reconcile

__all__ = ["reconcile"]
