"""Runs a model node in a sandbox: it executes merged community code, and reaches nothing but its own folders.

The node listens on a unix socket in a folder that it shares with its starter, which passes connections of one loopback
port on to it. So it needs no network, and has none. Neither torch nor Django is imported here, and no code of the
served tree.
"""
