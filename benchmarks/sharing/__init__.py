"""Gain sharing: what a deployed tree saves on each line of a bill, who made it, and what they are paid for it. Pure."""
