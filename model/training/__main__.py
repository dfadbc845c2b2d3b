"""`python -m model.training`, the program behind `gainshare train`."""

import signal
import sys


def start() -> int:
    """Run the command and return its exit status. Ctrl-C during the import gives no traceback either."""
    try:
        from model.training.run.command import main
    except KeyboardInterrupt:
        sys.stderr.write("interrupted before anything was done\n")
        return 130
    status = main(sys.argv[1:])
    # The result is printed: a late Ctrl-C must not add a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return status


sys.exit(start())
