"""What GitHub publishes of itself on npm: the OpenAPI description of its API, and example payloads of its events."""

import json
import shutil
import subprocess
import tarfile
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from jsonschema import ValidationError
from openapi_schema_validator import OAS30Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT4

DESCRIPTION = "@octokit/openapi@23.0.2"
EXAMPLES = "@octokit/webhooks-examples@7.6.1"
WITHIN_S = 300
HERE = "urn:github"


def unpacked(package: str, folder: Path) -> Path:
    """A package's folder. Skips the test by name where npm, or the registry, is not there."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip(f"expected: NO NPM HERE: nothing was compared with {package}")
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [npm, "pack", "--silent", package],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"expected: NPM GAVE NOTHING: nothing was compared with {package}")
    with tarfile.open(folder / done.stdout.split()[-1]) as packed:
        packed.extractall(folder, filter="data")
    return folder / "package"


class Description:
    """GitHub's OpenAPI description, with what it says of one request and its answer."""

    def __init__(self, folder: Path) -> None:
        self.document: dict[str, Any] = json.loads((folder / "generated" / "api.github.com.json").read_text())
        self._mend()
        resource = Resource(contents=self.document, specification=DRAFT4)
        self._registry: Registry[Any] = Registry().with_resource(HERE, resource)

    def _mend(self) -> None:
        """One list says that an account is a user and an enterprise at once; elsewhere it is one of them."""
        listed = self.document["paths"]["/app/installations"]["get"]["responses"]["200"]
        row = listed["content"]["application/json"]["schema"]["items"]["properties"]
        assert "allOf" in row["account"], "mended by GitHub: leave this out"
        row["account"] = self.document["components"]["schemas"]["installation"]["properties"]["account"]

    @cached_property
    def events(self) -> dict[str, str]:
        """Event with its action -> pointer to the schema of its payload."""
        found = {}
        for name, methods in self.document["x-webhooks"].items():
            found[name] = f"/x-webhooks/{_escaped(name)}/post/requestBody/content/application~1json/schema"
            assert "post" in methods
        return found

    def operation(self, method: str, path: str) -> tuple[str, dict[str, Any]]:
        """The template and the operation of an address. `/repositories/ID` is another way to write `/repos/OWNER/NAME`."""
        parts = path.strip("/").split("/")
        if parts[0] == "repositories":
            parts = ["repos", "owner", "name", *parts[2:]]
        best: tuple[int, str] | None = None
        for template, methods in self.document["paths"].items():
            wanted = template.strip("/").split("/")
            if method.lower() not in methods or len(wanted) != len(parts):
                continue
            if all(w.startswith("{") or w == p for w, p in zip(wanted, parts, strict=True)):
                score = sum(not w.startswith("{") for w in wanted)
                best = max(best, (score, template)) if best else (score, template)
        assert best is not None, f"GitHub has no {method} {path}"
        operation: dict[str, Any] = self.document["paths"][best[1]][method.lower()]
        return best[1], operation

    def parameters(self, template: str, method: str) -> set[str]:
        """Names that the query of an operation may have."""
        rows = self.document["paths"][template][method.lower()].get("parameters", [])
        return {row["name"] for row in map(self._resolved, rows) if row["in"] == "query"}

    def request_schema(self, template: str, method: str) -> str | None:
        """Pointer to the schema of an operation's body."""
        operation = self.document["paths"][template][method.lower()]
        if "requestBody" not in operation:
            return None
        return f"/paths/{_escaped(template)}/{method.lower()}/requestBody/content/application~1json/schema"

    def answer_schema(self, template: str, method: str, status: int) -> str | None:
        """Pointer to the schema of an answer; None where the description has none for the status."""
        answers = self.document["paths"][template][method.lower()]["responses"]
        if str(status) not in answers:
            return None
        at = f"/paths/{_escaped(template)}/{method.lower()}/responses/{status}"
        if "$ref" in answers[str(status)]:
            at = answers[str(status)]["$ref"].removeprefix("#")
        content = self._resolved(answers[str(status)]).get("content", {})
        kind = next((name for name in content if "json" in name), None)
        return None if kind is None else f"{at}/content/{_escaped(kind)}/schema"

    def problems(self, pointer: str, document: Any) -> list[str]:
        """What in a document is not as the schema at the pointer says."""
        validator = OAS30Validator({"$ref": f"{HERE}#{pointer}"}, registry=self._registry)
        return [_told(error) for error in validator.iter_errors(document) if not _is_null_allowed(error)]

    def _resolved(self, part: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in part:
            target: Any = self.document
            for step in part["$ref"].removeprefix("#/").split("/"):
                target = target[step]
            part = target
        return part


def _is_null_allowed(error: ValidationError) -> bool:
    """Whether the description says that null may be there, and only forgot it in its list of values."""
    return error.validator == "enum" and error.instance is None and bool(error.schema.get("nullable"))  # type: ignore[union-attr]


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1").replace("{", "%7B").replace("}", "%7D")


def _told(error: ValidationError) -> str:
    where = "/".join(str(part) for part in error.absolute_path)
    inner = "; ".join(
        f"{'/'.join(map(str, e.absolute_path))}: {e.message[:160]}" for e in error.context or []
    )
    return f"{where}: {error.message[:200]} {inner[:600]}".strip()
