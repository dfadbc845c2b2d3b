"""Spends credits through the unmodified `openai` client, streaming, and shows the bill."""

import time
from typing import Any

from openai import OpenAI
from rich.console import Console
from rich.table import Table

from gainshare.cli.demo.people import Person
from gainshare.cli.output import CliError

QUESTION = "What is the capital of France?"
MAX_TOKENS = 48
SETTLE_LIMIT_S = 10.0
POLL_S = 0.1


def spend_on_chat(url: str, person: Person, model: str, console: Console) -> dict[str, Any]:
    """Stream and print one answer, then print its bill. Returns both, with the request's id."""
    client = OpenAI(base_url=f"{url}/v1", api_key=person.key, max_retries=0)
    response = client.chat.completions.with_raw_response.create(
        model=model,
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=MAX_TOKENS,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    request_id = response.headers["x-gainshare-request-id"]
    console.print(f"     {QUESTION}\n     ", end="")
    words, usage = [], None
    with response.parse() as stream:
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                words.append(choice.delta.content or "")
                console.print(words[-1], end="", markup=False, highlight=False)
    console.print()
    bill = _settled_bill(person, request_id)
    _print_bill(bill, console)
    return {
        "request_id": request_id,
        "question": QUESTION,
        "answer": "".join(words).strip(),
        "usage": usage.model_dump() if usage else None,
        "bill": bill,
    }


def _settled_bill(person: Person, request_id: str) -> dict[str, Any]:
    """Wait for the bill, which is settled after the last byte of the stream. Raises CliError."""
    deadline = time.monotonic() + SETTLE_LIMIT_S
    while time.monotonic() < deadline:
        bill: dict[str, Any] = person.get(f"usage/{request_id}/")
        if bill["settled_at"] is not None:
            return bill
        time.sleep(POLL_S)
    raise CliError(f"request {request_id} was not settled within {SETTLE_LIMIT_S:.0f} s")


def _print_bill(bill: dict[str, Any], console: Console) -> None:
    table = Table("item", "tokens", "micro-credits per million", "micro-credits", title="The bill")
    for column in table.columns[1:]:
        column.justify = "right"
    for line in bill["bill_lines"]:
        table.add_row(*(str(line[name]) for name in ("item", "quantity", "unit_price", "amount")))
    table.add_section()
    table.add_row("total", "", "", str(bill["charged_microcredits"]))
    console.print(table)
