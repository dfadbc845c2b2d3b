"""As `checkout`, but first the `+++` lines of the diff are compared with the policy of the patched checkout."""

from checkout import main  # type: ignore[import-not-found]

if __name__ == "__main__":
    main(with_policy=True)
