"""Canary: a merged tree as a node would serve it, timed against the tree that is served now, before it gets traffic.

Two fresh nodes in sandboxes of their own, on one core, by turns, the idle one frozen; the clock is the judge's, from
request sent to last byte. The document is signed with the host's key; `gainshare verify` recomputes its verdict.
"""
