"""Bounties: submissions, runs, verdicts, awards and runners, plugged into the platform."""
