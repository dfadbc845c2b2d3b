"""Template filter of the API reference: descriptions mark code with back quotes, as the OpenAPI document has it."""

import re

from django import template
from django.utils.html import conditional_escape
from django.utils.safestring import SafeString, mark_safe

register = template.Library()

CODE = re.compile(r"`([^`]+)`")


@register.filter
def with_code(text: str) -> SafeString:
    """`text`, escaped, with what stands between back quotes as code and its line breaks kept."""
    marked = CODE.sub(r"<code>\1</code>", conditional_escape(text))
    return mark_safe(marked.replace("\n", "<br>"))  # noqa: S308 - escaped in the line above
