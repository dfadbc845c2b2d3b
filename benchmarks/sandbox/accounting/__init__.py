"""What a sandbox's processes use, counted and limited: cgroups, or polls where none may be made."""
