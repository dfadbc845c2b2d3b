"""As `same_inputs`, with another input for each call; still only the first answer is compared."""

from scoring import last, report, results, run_worker  # type: ignore[import-not-found]

if __name__ == "__main__":
    base = last(results(run_worker("/base", "fresh", "save")))
    report(base, last(results(run_worker("/candidate", "fresh", "allclose"))))
