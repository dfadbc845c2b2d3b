"""Spend credits as any model user would: the unmodified `openai` client, streaming, then the bill."""

from typing import Any

from openai import OpenAI
from rich.console import Console
from rich.table import Table

from gainshare.cli.demo.people import Person

QUESTION = "What is the capital of France?"
MAX_TOKENS = 48


def spend_on_chat(url: str, person: Person, model: str, console: Console) -> dict[str, Any]:
    """Stream one answer, print it as it comes, then print the bill. Returns both, with the request's id."""
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
    bill = person.get(f"usage/{request_id}/")
    _print_bill(bill, console)
    return {
        "request_id": request_id,
        "question": QUESTION,
        "answer": "".join(words).strip(),
        "usage": usage.model_dump() if usage else None,
        "bill": bill,
        "line_amounts": [line["amount_microcredits"] for line in bill["lines"]],
    }


def _print_bill(bill: dict[str, Any], console: Console) -> None:
    table = Table("item", "tokens", "micro-credits per million", "micro-credits", title="The bill")
    for column in table.columns[1:]:
        column.justify = "right"
    for line in bill["lines"]:
        row = (line["item"], line["quantity"], line["unit_price_microcredits"], line["amount_microcredits"])
        table.add_row(*map(str, row))
    table.add_section()
    table.add_row("total", "", "", str(bill["total_microcredits"]))
    console.print(table)
