"""The `gainshare` command: registers the subcommands and reports errors.

Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

import sys

import typer
from typer.exceptions import TyperException

from gainshare.cli.capacity.agent import PASSED_ON, agent
from gainshare.cli.capacity.hosts import hosts
from gainshare.cli.capacity.pool import pool
from gainshare.cli.capacity.replay import replay
from gainshare.cli.capacity.scale import scale
from gainshare.cli.capacity.simulate import simulate
from gainshare.cli.contributor.bench import bench
from gainshare.cli.contributor.disputes import dispute, disputes
from gainshare.cli.contributor.reproduce import reproduce
from gainshare.cli.contributor.submit import submit
from gainshare.cli.contributor.train import train
from gainshare.cli.contributor.verify import verify
from gainshare.cli.demo.command import demo
from gainshare.cli.local.down import down
from gainshare.cli.local.sandbox_test import sandbox_test
from gainshare.cli.local.status import status
from gainshare.cli.local.up import up
from gainshare.cli.maintainer.audit import audit
from gainshare.cli.maintainer.bounties import bounties
from gainshare.cli.maintainer.deploy import deploy
from gainshare.cli.maintainer.github import github
from gainshare.cli.maintainer.lineages import lineages
from gainshare.cli.maintainer.prices import prices
from gainshare.cli.maintainer.reversals import reversals
from gainshare.cli.maintainer.runners import runners
from gainshare.cli.maintainer.stop import stop
from gainshare.cli.output import CliError, print_error
from gainshare.cli.user.chat import chat
from gainshare.cli.user.credits import show_credits
from gainshare.cli.user.keys import keys
from gainshare.cli.user.models import model
from gainshare.local.errors import LocalModeError

app = typer.Typer(
    help="Make the model faster, get paid in the model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(up)
app.command()(down)
app.command()(demo)
app.command()(status)
app.command()(bounties)
app.command()(submit)
app.command()(reproduce)
app.command()(dispute)
app.command()(disputes)
app.command()(bench)
app.command()(train)
app.command("credits")(show_credits)
app.add_typer(keys, name="keys")
app.command()(chat)
app.add_typer(model, name="model")
app.add_typer(runners, name="runners")
app.add_typer(pool, name="pool")
app.add_typer(hosts, name="hosts")
app.command(context_settings=PASSED_ON)(agent)
app.add_typer(lineages, name="lineages")
app.add_typer(scale, name="scale")
app.command()(deploy)
app.add_typer(prices, name="prices")
app.add_typer(github, name="github")
app.add_typer(reversals, name="reversals")
app.command()(stop)
app.command()(verify)
app.command()(audit)
app.command()(replay)
app.command("sandbox-test")(sandbox_test)
app.command()(simulate)


def main() -> None:
    """Entry point of the console script."""
    try:
        _run(as_json="--json" in sys.argv)
    except (CliError, LocalModeError) as error:
        print_error(str(error), code=error.code, as_json="--json" in sys.argv)
        sys.exit(2 if error.code == "usage" else 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print_error(f"{where}{error.strerror or error}", code="os_error", as_json="--json" in sys.argv)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _run(*, as_json: bool) -> None:
    """Run the command. Typer prints usage errors itself, except with --json."""
    if not as_json:
        app()
    try:
        sys.exit(app(standalone_mode=False))
    except typer.Abort as error:
        raise CliError("aborted: the question was not answered", code="aborted") from error
    except TyperException as error:
        raise CliError(error.format_message(), code="usage") from error


if __name__ == "__main__":
    main()
