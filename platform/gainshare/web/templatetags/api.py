"""Template filter of the API reference, which renders code in back quotes."""

import re

from django import template
from django.utils.html import conditional_escape
from django.utils.safestring import SafeString, mark_safe

register = template.Library()

CODE = re.compile(r"`([^`]+)`")


@register.filter
def with_code(text: str) -> SafeString:
    """Escape `text`, render text in back quotes as code, and keep line breaks."""
    marked = CODE.sub(r"<code>\1</code>", conditional_escape(text))
    return mark_safe(marked.replace("\n", "<br>"))  # noqa: S308 - escaped in the line above
