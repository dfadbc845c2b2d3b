"""The pool as people see it: classes of devices, their nodes and runners, and devices lent to judging."""
