"""As `checkout`, but instead of running tests it compares the first answer with the tolerance of the patched checkout."""

from checkout import main  # type: ignore[import-not-found]

if __name__ == "__main__":
    main("tolerance")
