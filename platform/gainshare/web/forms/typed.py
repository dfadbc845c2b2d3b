"""What people type into forms: free text as the database can keep it, and text that is pasted or comes as a file."""

from dataclasses import dataclass

from django import forms
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, QueryDict


@dataclass(frozen=True, slots=True)
class Refused:
    """What was typed into the form of an action that was refused: the page shows it again, with the reason."""

    action: str
    text: str
    error: str


def typed_text(request: HttpRequest, name: str = "text") -> str:
    """The field's text without white space around it, with line ends as they were typed.

    Zero bytes are dropped: no keyboard makes them, and the database cannot keep them.
    """
    return request.POST.get(name, "").replace("\r\n", "\n").replace("\x00", "").strip()


def set_field(form: forms.Form, name: str, value: str) -> None:
    """Have a bound form show another value in one field when it is shown again."""
    data = QueryDict(mutable=True)
    data.update(form.data)
    data[form.add_prefix(name)] = value
    form.data = data


def pasted_or_chosen(
    *, pasted: str, chosen: UploadedFile | None, max_bytes: int, too_large: str, no_text: str
) -> str:
    """The text of two fields of which one may be used; empty where neither is.

    Raises ValidationError for both at once, and with the given words for a file that is too large or no text.
    """
    if chosen is None:
        # Browsers send form text with CRLF line ends; it was typed with LF.
        return pasted.replace("\r\n", "\n") if pasted.strip() else ""
    if pasted.strip():
        raise forms.ValidationError("Paste the text or choose a file, not both.")
    if (chosen.size or 0) > max_bytes:
        raise forms.ValidationError(too_large)
    try:
        text: str = chosen.read().decode()
    except UnicodeDecodeError:
        raise forms.ValidationError(no_text) from None
    return text
