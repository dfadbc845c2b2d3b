"""`python -m model.serving.node`: serve one model over HTTP (docs/reference/node.md)."""

from model.serving.node.early_signals import end_at_once

end_at_once()  # before torch, which takes seconds to import

from model.serving.node.command import main  # noqa: E402

main()
