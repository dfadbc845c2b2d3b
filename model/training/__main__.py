"""`python -m model.training`, the program behind `gainshare train`."""

import signal
import sys


def start() -> int:
    """The command's exit status. A Ctrl-C while the command is still being imported is no error to trace either."""
    try:
        from model.training.run.command import main
    except KeyboardInterrupt:
        sys.stderr.write("interrupted before anything was done\n")
        return 130
    status = main(sys.argv[1:])
    # All has been said: one more Ctrl-C is no reason for a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return status


sys.exit(start())
