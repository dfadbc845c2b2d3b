"""The judge: sandbox, pair runner, statistics, evidence. No Django; torch only in `suites` and `oracle`."""
