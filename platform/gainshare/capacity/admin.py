"""The pool's tables in the admin, to look at."""

from gainshare.capacity.scaling import admin as scaling_admin  # registers its tables

__all__ = ["scaling_admin"]
