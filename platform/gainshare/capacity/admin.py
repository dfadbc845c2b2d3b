"""The pool's tables in the admin, to look at."""
