"""The Jinja chat templates of a tokenizer's folder, and Jinja as such templates expect it."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fm9g.data.chat.given import as_json
from fm9g.data.tokens.tokenizer import content_of, read_object
from fm9g.errors import UserError
from fm9g.files import read_text

DEFAULT, TOOL_USE = "default", "tool_use"  # names of templates, where there are several
A_DAY = datetime.date(2024, 7, 26)  # that which Llama 3's template has by default


def read_sources(folder: Path) -> tuple[dict[str, str], Path]:
    """The templates by their names, DEFAULT and perhaps TOOL_USE, and the file they are in; UserError where there is
    none."""
    path = folder / "chat_template.jinja"
    if path.exists():
        return {DEFAULT: read_text(path)}, path
    for name in ("tokenizer_config.json", "chat_template.json"):
        path = folder / name
        found = read_object(path).get("chat_template")
        if isinstance(found, list):  # several, by name
            named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
            sources = {key: str(named[key]) for key in (DEFAULT, TOOL_USE) if isinstance(named.get(key), str)}
        else:
            sources = {DEFAULT: found} if isinstance(found, str) else {}
        if DEFAULT in sources:
            return sources, path
    raise UserError(
        f"template tokenizer: {folder} has no chat template (chat_template.jinja, or chat_template in "
        "tokenizer_config.json): name one of chat_templates/"
    )


def has_template(folder: Path) -> bool:
    """Whether a tokenizer's folder has a chat template."""
    try:
        read_sources(folder)
    except UserError:
        return False
    return True


def special_variables(folder: Path) -> dict[str, str]:
    """bos_token, eos_token, … as templates know them."""
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        for key, value in read_object(folder / name).items():
            if key.endswith("_token") and (spelling := content_of(value)) is not None:
                found[key] = spelling
    return found


def environment() -> ImmutableSandboxedEnvironment:
    """Jinja as chat templates of the field expect it."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = as_json
    environment.globals["raise_exception"] = _refuse
    return environment


def compiled(source: str) -> jinja2.Template:
    """A template; jinja2's TemplateSyntaxError for what is none."""
    made = environment()
    if "strftime_now" in source and "strftime_now is defined" not in source:
        made.globals["strftime_now"] = A_DAY.strftime
    return made.from_string(source)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


class _Generation(jinja2.ext.Extension):
    """{% generation %} … {% endgeneration %}, with which templates mark answers: what is inside, as it is."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        """The statements inside."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
