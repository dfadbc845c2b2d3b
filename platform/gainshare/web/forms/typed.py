"""Text fields of forms: free text that the database can store, and text that is pasted or uploaded."""

from dataclasses import dataclass

from django import forms
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, QueryDict


@dataclass(frozen=True, slots=True)
class Refused:
    """Typed text of a refused action, which the page shows again with the reason."""

    action: str
    text: str
    error: str


def typed_text(request: HttpRequest, name: str = "text") -> str:
    """The field's text without surrounding white space and with normalised line ends.

    Zero bytes are dropped, because the database cannot store them.
    """
    return request.POST.get(name, "").replace("\r\n", "\n").replace("\x00", "").strip()


def set_field(form: forms.Form, name: str, value: str) -> None:
    """Change the value that a bound form shows in one field."""
    data = QueryDict(mutable=True)
    data.update(form.data)
    data[form.add_prefix(name)] = value
    form.data = data


def pasted_or_chosen(
    *, pasted: str, chosen: UploadedFile | None, max_bytes: int, too_large: str, no_text: str
) -> str:
    """Text of a pasted field or an uploaded file; empty if neither is given.

    Raises ValidationError if both are given, and with the given messages for a file that is too large or not text.
    """
    if chosen is None:
        # Browsers send form text with CRLF line ends.
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
