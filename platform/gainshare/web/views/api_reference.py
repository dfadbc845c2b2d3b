"""Data of the API reference page: groups of operations, and their shapes.

Pure functions over an OpenAPI 3.0 document. Types are written in words: `integer`, `list of RunOut`, `string (uuid)`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Part = Mapping[str, Any]
SHAPES = "#/components/schemas/"
BOUNDS = {"minimum": "at least", "maximum": "at most", "minLength": "from", "maxLength": "at most"}


@dataclass(frozen=True, slots=True)
class Type:
    """A type in words; ``shape`` is the name of the shape that it links to, if any."""

    before: str
    shape: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class Field:
    """One parameter, header, or field of a shape."""

    name: str
    type: Type
    is_required: bool
    description: str
    place: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """One status of an operation's answers."""

    status: str
    description: str
    bodies: tuple[tuple[str, Type], ...]
    headers: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one address."""

    id: str
    method: str
    path: str
    summary: str
    description: str
    keys: tuple[str, ...]
    parameters: tuple[Field, ...]
    bodies: tuple[tuple[str, Type], ...]
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """The operations under one tag."""

    name: str
    description: str
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """A named JSON object, or a named set of values."""

    name: str
    description: str
    fields: tuple[Field, ...]
    values: tuple[str, ...]


class Reference:
    """Reader of one OpenAPI document."""

    def __init__(self, document: Part) -> None:
        self._document = document

    def groups(self) -> list[Group]:
        """All operations by tag, in the document's order of tags."""
        by_tag: dict[str, list[Operation]] = {}
        for path, methods in self._document["paths"].items():
            for method, operation in methods.items():
                by_tag.setdefault(operation["tags"][0], []).append(self._operation(method, path, operation))
        said = {tag["name"]: tag.get("description", "") for tag in self._document.get("tags", [])}
        order = [*said, *sorted(by_tag.keys() - said.keys())]
        return [Group(name, said.get(name, ""), tuple(by_tag[name])) for name in order if name in by_tag]

    def shapes(self) -> list[Shape]:
        """Every named shape, by name."""
        return [
            self._shape(name, shape)
            for name, shape in sorted(self._document["components"]["schemas"].items())
        ]

    def _operation(self, method: str, path: str, operation: Part) -> Operation:
        return Operation(
            id=operation["operationId"],
            method=method.upper(),
            path=path,
            summary=operation.get("summary", ""),
            description=operation.get("description", ""),
            keys=tuple(
                name for way in operation.get("security", []) for name in (way or {"without a key": []})
            ),
            parameters=tuple(
                self._parameter(self._resolved(part)) for part in operation.get("parameters", [])
            ),
            bodies=self._bodies(operation.get("requestBody", {})),
            answers=tuple(
                self._answer(status, part) for status, part in sorted(operation["responses"].items())
            ),
        )

    def _answer(self, status: str, part: Part) -> Answer:
        answer = self._resolved(part)
        headers = [
            self._header(name, self._resolved(header)) for name, header in answer.get("headers", {}).items()
        ]
        return Answer(status, answer.get("description", ""), self._bodies(answer), tuple(headers))

    def _bodies(self, part: Part) -> tuple[tuple[str, Type], ...]:
        content = self._resolved(part).get("content", {})
        return tuple((kind, written(body.get("schema", {}))) for kind, body in content.items())

    def _parameter(self, part: Part) -> Field:
        is_required = part.get("required", False)
        return Field(
            part["name"], written(part["schema"]), is_required, part.get("description", ""), part["in"]
        )

    def _header(self, name: str, part: Part) -> Field:
        return Field(name, written(part["schema"]), False, part.get("description", ""))

    def _shape(self, name: str, shape: Part) -> Shape:
        required = shape.get("required", [])
        fields = tuple(
            Field(field, written(part), field in required, part.get("description", ""))
            for field, part in shape.get("properties", {}).items()
        )
        values = tuple(_value(value) for value in shape.get("enum", ()))
        return Shape(name, shape.get("description", ""), fields, values)

    def _resolved(self, part: Part) -> Part:
        while "$ref" in part:
            target: Any = self._document
            for step in part["$ref"].removeprefix("#/").split("/"):
                target = target[step]
            part = target
        return part


def written(part: Part) -> Type:
    """A schema's type in words."""
    if "$ref" in part:
        return Type("", part["$ref"].removeprefix(SHAPES))
    after = " or null" if part.get("nullable") else ""
    if len(part.get("allOf", ())) == 1:
        inner = written(part["allOf"][0])
        return Type(inner.before, inner.shape, inner.after + after)
    if choices := part.get("oneOf") or part.get("anyOf"):
        return Type(" or ".join(_flat(written(choice)) for choice in choices) + after)
    if part.get("type") == "array":
        inner = written(part.get("items", {}))
        return Type(f"list of {inner.before}", inner.shape, inner.after + after)
    if "enum" in part:
        return Type(" | ".join(_value(value) for value in part["enum"]) + after)
    details = [part["format"]] if "format" in part else []
    details += _bounds(part)
    return Type(part.get("type", "any JSON") + (f" ({', '.join(details)})" if details else "") + after)


def _bounds(part: Part) -> Iterator[str]:
    for key, words in BOUNDS.items():
        if key in part:
            unit = " characters" if key.endswith("Length") else ""
            yield f"{words} {part[key]}{unit}"


def _flat(type_: Type) -> str:
    return type_.before + type_.shape + type_.after


def _value(value: Any) -> str:
    return "null" if value is None else f'"{value}"' if value == "" else str(value)
