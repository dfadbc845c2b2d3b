"""What every request and answer passes: limits, policies, compression, and pages for refusals."""
