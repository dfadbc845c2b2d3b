"""Files that a trained model needs to be served: tokenizer, chat template, tokens that end an answer."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from model.data.tokenizer import Markup, TextTokenizer
from model.serving.api.chat import TEMPLATE_FILE


@dataclass(frozen=True)
class ServingFiles:
    """Texts of files by name, and the token ids that the model folder's metadata names."""

    files: dict[str, str]
    stop_tokens: list[int]


def serving_files(tokenizer: TextTokenizer) -> ServingFiles:
    """Serving files of a model that was trained on this tokenizer's documents and instructions."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        files = {path.name: path.read_text(encoding="utf-8") for path in Path(folder).iterdir()}
    [end] = tokenizer.encode_documents([""])
    return ServingFiles({**files, TEMPLATE_FILE: chat_template(tokenizer.markup)}, end[:1])


def chat_template(markup: Markup) -> str:
    """Chat template with the format of the trained instructions; every role but the assistant's is a question."""
    end, user, assistant = (json.dumps(text, ensure_ascii=False) for text in markup.strings)
    return (
        "{% for message in messages %}"
        "{% if message.role == 'assistant' %}"
        f"{{{{ {assistant} + message.content + {end} }}}}"
        "{% else %}"
        f"{{{{ {user} + message.content }}}}"
        "{% endif %}"
        "{% endfor %}"
        f"{{% if add_generation_prompt %}}{{{{ {assistant} }}}}{{% endif %}}"
    )
