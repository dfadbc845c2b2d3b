"""`gainshare up`: starts PostgreSQL, Valkey, web, workers and a model node on this machine."""

from typing import Annotated, Any

import typer

from gainshare.capacity.agent.protocol import MAX_DEVICES
from gainshare.cli.local.quarantined import quarantined_runners
from gainshare.cli.output import CliError, JsonOption, console, print_json, say
from gainshare.local import stack
from gainshare.local.elastic import require_elastic_model
from gainshare.local.paths import Home, home_from_environment
from gainshare.local.secrets import Secrets, read_secret
from gainshare.local.services import NO_SANDBOX
from gainshare.local.state import StackState

PortOption = Annotated[
    int,
    typer.Option("--port", envvar="GAINSHARE_PORT", min=1, max=65535, help="Port of the site on 127.0.0.1."),
]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        help="smollm2-moe or smollm2-moe-small (fetched once), tiny (random weights), none, or a folder.",
    ),
]


def up(
    port: PortOption = stack.DEFAULT_PORT,
    model: ModelOption = stack.DEFAULT_MODEL,
    detach: Annotated[
        bool, typer.Option("--detach", help="Start in the background and return when the site is ready.")
    ] = False,
    elastic: Annotated[
        bool,
        typer.Option(
            "--elastic/--no-elastic",
            envvar="GAINSHARE_ELASTIC",
            help="Start a node agent, which runs as many nodes as are wanted, instead of one node.",
        ),
    ] = False,
    devices: Annotated[
        int,
        typer.Option("--devices", min=1, max=MAX_DEVICES, help="With --elastic: nodes that may run at once."),
    ] = 2,
    first_node: Annotated[
        bool,
        typer.Option(
            "--first-node/--no-first-node",
            help="With --elastic: begin with a node, or with none until one is wanted or a tree is deployed.",
        ),
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Start the whole site on this machine, print its address and a login, and keep it running."""
    home = home_from_environment()
    if elastic:
        require_elastic_model(model)
    elif not first_node:
        raise CliError("--no-first-node goes with --elastic: the other stack is one node", code="usage")
    if detach:
        announce(
            stack.start_background(
                home,
                port=port,
                model=model,
                on_progress=lambda text: say(f"{text} ..."),
                devices=devices if elastic else 0,
                has_first_node=first_node,
            ),
            home,
            as_json,
        )
    elif as_json:
        raise CliError("--json prints one document and exits, so it needs --detach", code="usage")
    else:
        stack.run_foreground(
            home,
            port=port,
            model=model,
            say=say,
            on_ready=lambda state: announce(state, home, as_json=False),
            devices=devices if elastic else 0,
            has_first_node=first_node,
        )
        say("stopped")


def announce(state: StackState, home: Home, as_json: bool) -> None:
    """Print the site's address and login. The password is shown, because it is for this machine's site only."""
    secrets = Secrets(home.secrets)
    login: dict[str, Any] = {
        "url": state.url,
        "username": "admin",
        "password": read_secret(secrets.admin_password),
        "key_file": str(secrets.admin_key),
        "logs": str(home.logs),
        "model": state.model,
        "sandbox": state.sandbox["level"] or None,
        "node_sandbox": state.sandbox.get("node") or None,
        "quarantined": quarantined_runners(state),
    }
    if as_json:
        print_json(login)
        return
    console.print(f"\nGainshare is up at {state.url}", highlight=False)
    console.print(f"  login      admin / {login['password']}", highlight=False, markup=False)
    console.print(f"  API key    in {login['key_file']}", highlight=False, soft_wrap=True)
    console.print(f"  logs       in {login['logs']}", highlight=False, soft_wrap=True)
    if state.sandbox["problem"]:
        console.print(
            f"  [yellow]no sandbox, so nothing is judged:[/] {state.sandbox['problem']}", soft_wrap=True
        )
    if state.sandbox.get("node") == NO_SANDBOX:
        console.print(
            "  [yellow]the model node is not confined:[/] merged code in it reaches what your user reaches",
            soft_wrap=True,
        )
    for note in login["quarantined"]:
        console.print(f"  {note}", style="yellow", markup=False, soft_wrap=True)
    console.print("  stop with  Ctrl-C, or `gainshare down`\n", highlight=False)
