"""Counting and limiting what a sandbox's processes use: by cgroups, or by polls where none may be made."""
