"""`gainshare chat`: sends one message to a model of the site, through the unmodified `openai` client."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gainshare.cli.client import KeyOption, UrlOption, site
from gainshare.cli.output import CliError, JsonOption, console, errors, print_json

if TYPE_CHECKING:
    from openai import OpenAI


def chat(
    question: Annotated[str, typer.Argument(help="Message to the model.")],
    model: Annotated[
        str, typer.Option("--model", help="Model to ask; the site's first one by default.")
    ] = "",
    system: Annotated[str, typer.Option("--system", help="System message, sent before the question.")] = "",
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="Maximum tokens of the answer.")
    ] = 256,
    temperature: Annotated[float, typer.Option("--temperature", min=0, max=2)] = 0.0,
    url: UrlOption = "",
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Ask a model and stream its answer. It is paid from your credits."""
    from openai import APIConnectionError, APIStatusError, OpenAI  # its import takes half a second

    where = site(url, key)
    client = OpenAI(base_url=f"{where.url}/v1", api_key=where.key, max_retries=0)
    messages: list[Any] = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": question})
    try:
        answer = _stream(
            client,
            show=not as_json,
            model=model or _first_model(client),
            messages=messages,
            max_tokens=max_tokens,
            temperature=temperature,
        )
    except APIConnectionError as error:
        raise CliError(
            f"{where.url} cannot be reached ({error}): check the address, and that the site is running",
            code="unreachable",
        ) from None
    except APIStatusError as error:
        body = error.body if isinstance(error.body, dict) else {}
        raise CliError(
            str(body.get("message") or error.message), code=str(body.get("code") or error.status_code)
        ) from None
    if as_json:
        print_json(answer)
    elif usage := answer["usage"]:
        words = f"{usage['prompt_tokens']} tokens in, {usage['completion_tokens']} out"
        errors.print(f"[dim]{words}, request {answer['request_id']}[/]", highlight=False)


def _first_model(client: "OpenAI") -> str:
    for model in client.models.list():
        return model.id
    raise CliError(
        "the site serves no model at the moment: try again later, or ask a maintainer to publish a price",
        code="no_model",
    )


def _stream(client: "OpenAI", *, show: bool, **request: Any) -> dict[str, Any]:
    words: list[str] = []
    usage = None
    with client.chat.completions.create(
        **request, stream=True, stream_options={"include_usage": True}
    ) as stream:
        request_id = stream.response.headers.get("x-gainshare-request-id")
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                words.append(choice.delta.content or "")
                if show:
                    console.print(words[-1], end="", markup=False, highlight=False, soft_wrap=True)
    if show:
        console.print()
    return {
        "model": request["model"],
        "answer": "".join(words),
        "request_id": request_id,
        "usage": usage.model_dump() if usage else None,
    }
