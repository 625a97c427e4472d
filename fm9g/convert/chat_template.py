"""The chat template that a model was trained with, in its Hugging Face folder: what is served is what was trained."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from fm9g.convert.saved_run import stream_of
from fm9g.data.chat.as_jinja import as_jinja
from fm9g.data.chat.render import TOKENIZER
from fm9g.data.chat.template import Rows, digest, read_template, template_file, template_path
from fm9g.data.tokens.tokenizer import load_tokenizer, read_object
from fm9g.errors import UserError
from fm9g.files import read_json, write_json, write_text


def trained_template(checkpoint: Path) -> str | None:
    """The one template of ours that the data of a checkpoint's run has, as the state.json beside it says; None
    where it has none, or the tokenizer's own. Of several, none is taken, and that is said."""
    tasks = stream_of(checkpoint).get("tasks", [])
    found = {task["template_name"]: task.get("template") for task in tasks if task.get("template_name")}
    if len(found) > 1:
        names = ", ".join(sorted(found))
        print(f"note: trained with several templates ({names}): --template takes one along", file=sys.stderr)
        return None
    name, trained = next(iter(found.items()), (TOKENIZER, None))
    if name == TOKENIZER:
        return None
    if not (path := template_file(name)).is_file() or digest(read_json(path)) != trained:
        changed = "is not what it was" if path.is_file() else "is not there"
        raise UserError(
            f"{checkpoint} was trained with the template {name}, but {path} {changed}: restore it, or name another by "
            "--template"
        )
    print(f"note: the chat template is {name}, with which it was trained", file=sys.stderr)
    return str(name)


def install_template(name: str, folder: Path) -> None:
    """Write a template of ours into a folder with a tokenizer, and the tokens that end its answers as such; TOKENIZER
    leaves the folder's own as it is.

    UserError where there is no such template, or where the tokenizer cannot express it.
    """
    if name == TOKENIZER:
        return
    template = read_template(template_path(name))
    rows = Rows(template, load_tokenizer(folder))
    source = as_jinja(template)
    write_text(folder / "chat_template.jinja", source)
    config = folder / "tokenizer_config.json"  # where transformers before 4.50 look for it
    write_json(config, read_object(config) | {"chat_template": source})
    generation = folder / "generation_config.json"
    values = read_object(generation)
    ends = _listed(values.get("eos_token_id", read_object(folder / "config.json").get("eos_token_id")))
    write_json(generation, values | {"eos_token_id": ends + sorted(rows.ends - set(ends))})


def _listed(ids: Any) -> list[int]:
    return [] if ids is None else list(ids) if isinstance(ids, list) else [ids]
