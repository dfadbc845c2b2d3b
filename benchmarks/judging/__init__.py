"""The judge: jobs, runs of pairs, trials of bugs, verdicts."""
