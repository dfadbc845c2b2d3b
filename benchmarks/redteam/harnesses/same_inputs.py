"""Times calls on one input in the stack's own process; the first answer is compared there by torch.allclose."""

from scoring import last, report, results, run_worker  # type: ignore[import-not-found]

if __name__ == "__main__":
    base = last(results(run_worker("/base", "same", "save")))
    report(base, last(results(run_worker("/candidate", "same", "allclose"))))
