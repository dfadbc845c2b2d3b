"""What a pull request is told: its one comment and the check runs of its heads."""
