"""Chat templates: the text that transformers would write, and a refusal for whatever a template raises."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from model.serving.api.chat import ChatError, ChatTemplate, Message

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
CHAT = [
    Message("system", "Be <brief>."),
    Message("user", "Hi"),
    Message("assistant", "Ho é"),
    Message("user", "?"),
]
TEMPLATES = {
    "start and end": "{{ bos_token }}{% for m in messages %}{{ m.role }}:{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}",
    "json": "{% for m in messages %}{{ m | tojson }}\n{{ m | tojson(indent=2) }}{% endfor %}",
    "loop controls": "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.content }}"
    "{% if m.role == 'assistant' %}{% break %}{% endif %}{% endfor %}",
    "what is not there": "{{ pad_token }}{% if tools is not none or documents is not none %}tools{% endif %}{{ messages[0].name }}|",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_is_the_one_of_transformers(name: str) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **SPECIAL)
    chat = [{"role": message.role, "content": message.content} for message in CHAT]
    expected = tokenizer.apply_chat_template(
        chat, chat_template=TEMPLATES[name], tokenize=False, add_generation_prompt=True
    )
    assert ChatTemplate(TEMPLATES[name], SPECIAL).render(CHAT) == expected
    assert len(expected) > 0


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ 1 // (messages | length - 4) }}", "zero"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "[Rr]ange"),
        ("{{ messages[9].content }}", "no element 9"),
        ("{{ messages[0].content + 1 }}", "str"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_whatever_a_template_raises_is_its_refusal(template: str, reason: str) -> None:
    with pytest.raises(ChatError, match=f"chat template refuses these messages: .*({reason})"):
        ChatTemplate(template).render(CHAT)


def test_a_template_that_does_not_compile_is_refused_at_once() -> None:
    with pytest.raises(ChatError, match="does not compile"):
        ChatTemplate("{% for %}")
