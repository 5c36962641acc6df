"""Task files: TOML text <-> TaskSpec, and the sentences that say what is wrong with one.

The types of task.py state what each value may be; this turns msgspec's complaint about a path into what happened, why,
and what to try. A task that came over the wire passes the same checks. Pure.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any, get_type_hints

import msgspec

from discod.errors import BadData
from discod.train.contradictions import contradiction
from discod.train.task import MAX_TASK_BYTES, SCHEMA, TaskSpec, encode_task

COMMENT_COLUMN = 34
_PATH = re.compile(r"^(?P<why>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"unknown field `(?P<field>.*)`")


def load_task(text: str, source: str = "the task file") -> TaskSpec:
    """The task in TOML `text`. Raises: BadData naming the field, the reason and a remedy."""
    try:
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadData(
            f"{source} is not valid TOML: {error}", "mend that line; strings need quotes", code="bad-task"
        ) from error
    return _checked(raw, source)


def decode_task(encoded: bytes, source: str = "the published task") -> TaskSpec:
    """The task in its canonical encoding. Raises: BadData, also when another encoding of the same task was used."""
    if len(encoded) > MAX_TASK_BYTES:
        raise BadData(
            f"{source} is larger than {MAX_TASK_BYTES} bytes", "ask its author for a smaller one", code="bad-task"
        )
    try:
        raw = msgspec.msgpack.decode(encoded)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadData(
            f"{source} cannot be decoded: {error}", "ask its author to publish it again", code="bad-task"
        ) from error
    spec = _checked(raw, source)
    if encode_task(spec) != encoded:
        raise BadData(f"{source} is not in canonical form", "ask its author to publish it again", code="bad-task")
    return spec


def _checked(raw: Any, source: str) -> TaskSpec:
    if isinstance(raw, dict) and isinstance(raw.get("schema"), int) and raw["schema"] > SCHEMA:
        why = f"{source} has schema {raw['schema']}, this discod knows schema {SCHEMA}"
        raise BadData(why, "update discod, or ask its author for the older schema", code="bad-task")
    try:
        spec = msgspec.convert(raw, TaskSpec)
    except msgspec.ValidationError as error:
        what, hint = _in_words(str(error), raw)
        raise BadData(f"{source}: {what}", hint, code="bad-task") from error
    if found := contradiction(spec):
        raise BadData(f"{source}: {found[0]}", found[1], code="bad-task")
    if len(encode_task(spec)) > MAX_TASK_BYTES:
        raise BadData(f"{source} is larger than {MAX_TASK_BYTES} bytes", "shorten its summary", code="bad-task")
    return spec


def _in_words(complaint: str, raw: Any) -> tuple[str, str]:
    """msgspec's complaint -> (what is wrong, what to try)."""
    match = _PATH.match(complaint)
    assert match is not None
    why, path = match["why"], match["path"] or ""
    if unknown := _UNKNOWN.search(why):
        return _unknown_field(unknown["field"], path)
    if why.startswith("Object missing required field"):
        field = ".".join(filter(None, [path, why.split("`")[1]]))
        return f"{field} is missing", f"add it; {_legal(field)}"
    shown = _value_at(raw, path)
    return f"{path} = {shown} is not possible: {why[0].lower()}{why[1:]}", _legal(path)


def _unknown_field(field: str, section: str) -> tuple[str, str]:
    """The nearest name of the same section, else the section that has a field of this name, else what there is."""
    known = {path for path, _ in _fields() if path.rpartition(".")[0] == section}
    names = [path.rpartition(".")[2] for path in known]
    where = f"[{section}]" if section else "the top level"
    what = f"unknown field `{field}` in {where}"
    elsewhere = [path.rpartition(".")[0] for path, _ in _fields() if path.endswith("." + field)]
    if elsewhere:
        return what, f"move it to [{elsewhere[0]}]"
    if near := difflib.get_close_matches(field, names, n=1):
        return what, f"did you mean `{near[0]}`?"
    return what, f"remove it; {where} has {', '.join(sorted(names))}"


def _fields(struct: type[msgspec.Struct] = TaskSpec, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, annotated type) of every field, sections themselves included."""
    for name, kind in get_type_hints(struct, include_extras=True).items():
        yield prefix + name, kind
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            yield from _fields(kind, prefix + name + ".")


def _description(kind: Any) -> str:
    """The description nearest to the field, from the Annotated layers."""
    found = [str(meta.description) for meta in getattr(kind, "__metadata__", ()) if getattr(meta, "description", None)]
    return found[-1] if found else ""


def _legal(path: str) -> str:
    kind = dict(_fields()).get(re.sub(r"\[.*", "", path))
    return f"it is: {text}" if (text := _description(kind)) else "see `discod task new` for an example"


def _value_at(raw: Any, path: str) -> str:
    for step in filter(None, re.split(r"[.\[\]]+", path)):
        try:
            raw = raw[int(step)] if isinstance(raw, list | tuple) else raw[step]
        except (KeyError, IndexError, ValueError, TypeError):
            return "(its value)"
    return json.dumps(raw, default=str)[:60]


def dump_task(spec: TaskSpec) -> str:
    """The task as a TOML file that names every field and says what it is; loading it gives the same task."""
    sections: list[tuple[str, msgspec.Struct]] = [("", spec)]
    sections += [
        (name, value) for name, value in _items(spec) if isinstance(value, msgspec.Struct) and _used(spec, name)
    ]
    return "\n".join(_dump_section(name, section) for name, section in sections)


def _used(spec: TaskSpec, section: str) -> bool:
    return {"federated": spec.scheme == "federated", "fallback": spec.has_fallback}.get(section, True)


def _dump_section(title: str, section: msgspec.Struct) -> str:
    lines = [f"[{title}]"] if title else []
    kinds = get_type_hints(type(section), include_extras=True)
    for name, value in _items(section):
        if value is None or isinstance(value, msgspec.Struct):
            continue
        lines.append(f"{name} = {_toml(value)}".ljust(COMMENT_COLUMN) + f"  # {_description(kinds[name])}")
    return "\n".join(lines) + "\n"


def _items(section: msgspec.Struct) -> list[tuple[str, Any]]:
    return [(name, getattr(section, name)) for name in section.__struct_fields__]


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value)
