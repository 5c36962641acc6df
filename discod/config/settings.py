"""The configuration: what a person may set, where it is read from, and what is said when it is wrong.

    flag > DISCOD_SECTION_KEY > config.d/*.toml (by name) > config.toml > default

The file is never rewritten by discod; what changes while it runs lives in the state directory. A key that nothing
implements does not exist, and an unknown one is an error that names the nearest.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta, Struct

from discod.config.addresses import parse_listen, parse_signaling
from discod.errors import BadConfig, PermissionProblem
from discod.identity import is_name
from discod.identity.records import MAX_NAME

MAX_CONFIG_BYTES = 1 << 20


class Network(Struct, frozen=True, forbid_unknown_fields=True):
    """Who is asked for introductions, and how peers reach this one."""

    signaling: Annotated[tuple[str, ...], Meta(description="signaling nodes, HOST[:PORT] or ws(s)://HOST")] = ()
    listen: Annotated[str, Meta(description='where peers dial this one, HOST:PORT; "off": it only dials out')] = (
        "[::]:7340"
    )
    relay: Annotated[
        Literal["auto", "never", "only"], Meta(description="through the signaling node: auto, never or only")
    ] = "auto"


class Compute(Struct, frozen=True, forbid_unknown_fields=True):
    """What trains."""

    device: Annotated[str, Meta(pattern="^[A-Za-z0-9_:.]{1,32}$", description='of tinygrad; "auto": its choice')] = (
        "auto"
    )
    threads: Annotated[int, Meta(ge=0, le=1024, description="threads of the training process; 0: its own choice")] = 0


class Policy(Struct, frozen=True, forbid_unknown_fields=True):
    """What this peer takes part in."""

    min_peers: Annotated[
        int, Meta(ge=2, le=1024, description="never enter a smaller round; tasks may ask for more")
    ] = 2


class Log(Struct, frozen=True, forbid_unknown_fields=True):
    """What is written to the log."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="debug, info, warning or error")
    ] = "info"


class DatasetEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """A data set named in the file, beside those of `discod data add`."""

    alias: Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9_-]{0,63}$", description="its name on this machine")]
    path: Annotated[str, Meta(min_length=1, description="the data file")]


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a person may set."""

    schema: Literal[1] = 1
    name: Annotated[str, Meta(max_length=MAX_NAME, description="how others see this peer; empty: the host's name")] = ""
    network: Network = Network()
    compute: Compute = Compute()
    policy: Policy = Policy()
    log: Log = Log()
    dataset: tuple[DatasetEntry, ...] = ()


SECTIONS: dict[str, type[Struct]] = {"network": Network, "compute": Compute, "policy": Policy, "log": Log}


def load_config(path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """Read the file (none: the defaults), its drop-ins and the environment.

    Raises: BadConfig naming file and key, PermissionProblem when a file cannot be read.
    """
    table: dict[str, Any] = {}
    for file in (path, *sorted(path.parent.glob("config.d/*.toml"))):
        part = read_table(file)
        parse_config(part, str(file))
        table = merge(table, part)
    return parse_config(merge(table, environment_table(environ)), "the environment")


def read_table(path: Path) -> dict[str, Any]:
    """Return the TOML table of a file, empty when there is no file. Raises: BadConfig, PermissionProblem."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise PermissionProblem(f"cannot read {path}: {error.strerror}", f"ls -l {path}") from None
    try:
        return tomllib.loads(content[:MAX_CONFIG_BYTES].decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadConfig(f"{path} is not TOML: {error}", 'text values need quotes: name = "clinic-a"') from None


def parse_config(table: Mapping[str, Any], where: str) -> Config:
    """Check a table and return the Config. Raises: BadConfig naming `where` and the key."""
    for key in unknown_keys(table):
        raise BadConfig(f"{where}: there is no setting {key!r}", nearest(key))
    try:
        config = msgspec.convert(table, Config)
    except msgspec.ValidationError as error:
        what, _, at = str(error).replace("`", "").partition(" - at ")
        key = at.removeprefix("$.") or "the file"
        raise BadConfig(f"{where}: {key}: {what[:1].lower()}{what[1:]}", describe(key)) from None
    _check_values(config, where)
    return config


def environment_table(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return what DISCOD_NAME and DISCOD_SECTION_KEY set. Raises: BadConfig for an unknown key or a bad number."""
    table: dict[str, Any] = {}
    if name := environ.get("DISCOD_NAME"):
        table["name"] = name
    for variable, text in sorted(environ.items()):
        section, _, key = variable.removeprefix("DISCOD_").lower().partition("_")
        if not variable.startswith("DISCOD_") or section not in SECTIONS or not key:
            continue
        if key not in SECTIONS[section].__struct_fields__:
            raise BadConfig(f"the environment: {variable} is no setting", nearest(f"{section}.{key}"))
        table.setdefault(section, {})[key] = _typed(variable, SECTIONS[section], key, text)
    return table


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` with what `above` sets: sections key by key, data sets added, anything else replaced."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = merge(old, value)
        elif key == "dataset" and isinstance(old, list) and isinstance(value, list):
            merged[key] = old + value
        else:
            merged[key] = value
    return merged


def unknown_keys(table: Mapping[str, Any]) -> Iterator[str]:
    """Yield the dotted names that are no settings."""
    for key, value in table.items():
        if key not in Config.__struct_fields__:
            yield key
        elif key in SECTIONS and isinstance(value, Mapping):
            yield from (f"{key}.{k}" for k in value if k not in SECTIONS[key].__struct_fields__)
        elif key == "dataset" and isinstance(value, list):
            entries = [entry for entry in value if isinstance(entry, Mapping)]
            yield from (f"dataset.{k}" for entry in entries for k in entry if k not in DatasetEntry.__struct_fields__)


def setting_names() -> list[str]:
    """Return every setting's dotted name."""
    tables: dict[str, type[Struct]] = {**SECTIONS, "dataset": DatasetEntry}
    below = [f"{section}.{key}" for section, kind in tables.items() for key in kind.__struct_fields__]
    return ["schema", "name", *below]


def nearest(key: str) -> str:
    """Return the hint for an unknown key: the nearest setting by full or last name, else where to look."""
    names = setting_names()
    last = key.rpartition(".")[2]
    for name in difflib.get_close_matches(key, names, 1, 0.7) or [n for n in names if n.rpartition(".")[2] == last]:
        return f"did you mean {name}?"
    by_last = {name.rpartition(".")[2]: name for name in names}
    for found in difflib.get_close_matches(last, by_last, 1, 0.6):
        return f"did you mean {by_last[found]}?"
    return "the settings are: " + ", ".join(names)


def describe(key: str) -> str:
    """Return what a setting takes, as the hint beside a bad value."""
    section, _, field = key.partition(".")
    kind = SECTIONS.get(section, DatasetEntry if section.startswith("dataset") else Config)
    for each in msgspec.inspect.type_info(kind).fields:  # type: ignore[attr-defined]  # a StructType
        if each.name == (field or section) and isinstance(each.type, msgspec.inspect.Metadata):
            return f"{key}: {(each.type.extra_json_schema or {}).get('description', '')}"
    return "compare it with the file that discod init writes"


def config_schema() -> dict[str, Any]:
    """Return the JSON Schema of the file."""
    return msgspec.json.schema(Config)


def _check_values(config: Config, where: str) -> None:
    if config.name and not is_name(config.name):
        raise BadConfig(
            f"{where}: name: {config.name!r} cannot be shown", "printable characters, no spaces at the ends"
        )
    for key, check, values in (
        ("network.listen", parse_listen, (config.network.listen,)),
        ("network.signaling", parse_signaling, config.network.signaling),
    ):
        for value in values:
            if (why := _trouble(check, value)) is not None:
                raise BadConfig(f"{where}: {key}: {value!r}: {why}", describe(key))
    aliases = [entry.alias for entry in config.dataset]
    for alias in aliases:
        if aliases.count(alias) > 1:
            raise BadConfig(f"{where}: two data sets have the alias {alias!r}", "give each its own alias")


def _trouble(check: Any, value: str) -> str | None:
    try:
        check(value)
    except ValueError as error:
        return str(error)
    return None


def _typed(variable: str, kind: type[Struct], key: str, text: str) -> Any:
    default = cast(Any, kind())
    if isinstance(getattr(default, key), tuple):
        return [item.strip() for item in text.split(",") if item.strip()]
    if isinstance(getattr(default, key), int):
        try:
            return int(text)
        except ValueError:
            raise BadConfig(f"the environment: {variable} must be a whole number, not {text!r}") from None
    return text
