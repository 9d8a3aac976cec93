"""From files to configs: YAML over the schema's defaults, then `--set a.b=c`.

    config = load_config("configs/sample.yaml", ["train.learning_rate=0.001"])
    config.rounds[1].train.epochs

Each round of training inherits `train:` and overrides what it names, so `config.rounds[r].train` is always complete.
"""

import difflib
import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from config import Config
from errors import UserError
from yamls import read_yaml


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Read a YAML file, apply `a.b=c` overrides (values are YAML; list items by number) and validate once.

    Raises UserError for a missing or broken file, an unknown key (naming the nearest one) or a bad value.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such config; the ones here are {', '.join(_siblings(path)) or 'none'}")
    try:
        values = read_yaml(path.read_text(encoding="utf-8")) or {}
    except ValueError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: a config is a mapping of keys to values, not a {type(values).__name__}")
    values.setdefault("name", path.stem)
    for override in overrides:
        _apply_override(values, override)
    return parse_config(values, str(path))


def parse_config(values: dict[str, Any], source: str = "config") -> Config:
    """Validate a plain dict: every round's `train` is laid over the top one. Raises UserError naming the key."""
    values = dict(values)
    base = values.get("train") or {}
    rounds = values.get("rounds")
    if isinstance(base, dict) and isinstance(rounds, (list, tuple)):
        values["rounds"] = [
            {**one, "train": merge(base, one.get("train") or {})}
            if isinstance(one, dict) and isinstance(one.get("train") or {}, dict)
            else one
            for one in rounds
        ]
    elif rounds is None:
        values["rounds"] = [{"train": base}]
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{source}: {_explain(error)}") from None


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Lay one nested dict over another; dicts merge, everything else replaces."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def config_hash(values: Any) -> str:
    """A short fingerprint of plain values: the same on every machine."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": [1]}} → {"a.b.0": 1}, for showing what differs between two configs."""
    if isinstance(values, dict):
        items = values.items()
    elif isinstance(values, (list, tuple)):
        items = enumerate(values)
    else:
        return {prefix: values}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _siblings(path: Path) -> list[str]:
    return sorted(str(other) for other in path.parent.glob("*.yaml")) if path.parent.is_dir() else []


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not all(key.split(".")):
        raise UserError(f"--set {override}: write it as a.b=value")
    try:
        value = read_yaml(text)
    except ValueError as error:
        raise UserError(f"--set {override}: {text!r} is not a YAML value ({error}); quote it") from None
    *parents, last = key.split(".")
    node: Any = values
    for part in parents:
        node = _step_into(node, part, override)
    if isinstance(node, list):
        node[_position(node, last, override)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise UserError(f"--set {override}: {'.'.join(parents)} is a value, not a section")


def _step_into(node: Any, part: str, override: str) -> Any:
    if isinstance(node, list):
        return node[_position(node, part, override)]
    if not isinstance(node, dict):
        raise UserError(f"--set {override}: {part} stands under a value, not under a section")
    if node.get(part) is None:
        node[part] = {}
    return node[part]


def _position(items: list[Any], part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(items):
        raise UserError(f"--set {override}: {part} is no position in a list of {len(items)}")
    return int(part)


def _explain(error: ValidationError) -> str:
    """The first fault, with the key and, for an unknown key, the nearest one the section has."""
    faults = error.errors()
    # a key that takes a name or a section reports both; the section's fault is the one to read
    fault = next((one for one in faults if one["loc"] and one["loc"][-1] != "str"), faults[0])
    fault = fault | {"loc": tuple(part for part in fault["loc"] if part != "TableFormat")}
    where = ".".join(str(part) for part in fault["loc"])
    # every round repeats what is wrong in the train section it inherits
    count = len({one["loc"][2:] if one["loc"][:1] == ("rounds",) else one["loc"] for one in faults})
    more = f" (and {count - 1} more)" if count > 1 else ""
    if fault["type"] == "extra_forbidden":
        known = _keys_at(fault["loc"][:-1])
        near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1, cutoff=0.0)
        return f"unknown key {where}; the nearest is {near[0]!r}{more}" if near else f"unknown key {where}{more}"
    message = fault["msg"].removeprefix("Value error, ").replace("valid tuple", "list")
    shown = f", not {fault['input']!r}" if isinstance(fault["input"], (str, int, float, bool)) else ""
    if fault["type"] == "string_type" and fault["input"] is None:
        shown = f"""; an empty text is written so: --set '{where}=""'"""
    # what spans sections names its keys itself
    return f"{where}: {message}{shown}{more}" if where else f"{message}{more}"


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """The keys of the section at a place in the schema."""
    sections: list[type[BaseModel]] = [Config]
    for part in location:
        found = []
        for section in sections:
            field = section.model_fields.get(str(part))
            found += _sections_in(field.annotation) if field else []
        if isinstance(part, str) and found:
            sections = found
    return [key for section in sections for key in section.model_fields]


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [one for part in getattr(annotation, "__args__", ()) for one in _sections_in(part)]
