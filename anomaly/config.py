"""Frozen configuration dataclasses from and to plain dictionaries, refusing unknown keys."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from anomaly.errors import ConfigError

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """Turn a nested configuration into plain dictionaries."""
    return dataclasses.asdict(config)


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build the (nested) dataclass `cls`; raises `ConfigError` naming the key that is wrong."""
    hints = typing.get_type_hints(cls)
    fields = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            names = ", ".join(sorted(fields))
            raise ConfigError(f"unknown key {where + key!r}; known here: {names}")
    built = {key: _convert(hints[key], value, where + key) for key, value in values.items()}
    try:
        return cls(**built)
    except TypeError as error:
        raise ConfigError(f"{where or 'configuration'}: {error}") from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} is {value!r}; want a table of keys")
        return from_dict(typing.cast(type, hint), value, where + ".")
    if origin in (typing.Union, types.UnionType):
        return _convert_optional(hint, value, where)
    if origin is typing.Literal:
        if value not in typing.get_args(hint):
            raise ConfigError(f"{where} is {value!r}; want one of {list(typing.get_args(hint))}")
        return value
    if origin is tuple:
        return _convert_tuple(hint, value, where)
    if origin is dict:
        return _convert_dict(hint, value, where)
    if hint is Any:
        return value
    return _convert_scalar(hint, value, where)


def _convert_optional(hint: Any, value: Any, where: str) -> Any:
    inner = [arm for arm in typing.get_args(hint) if arm is not type(None)]
    return None if value is None else _convert(inner[0], value, where)


def _convert_tuple(hint: Any, value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where} is {value!r}; want a list")
    arms = typing.get_args(hint)
    if arms[-1] is Ellipsis:
        return tuple(_convert(arms[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(arms) != len(value):
        raise ConfigError(f"{where} has {len(value)} values; want {len(arms)}")
    return tuple(
        _convert(arm, v, f"{where}[{i}]")
        for i, (arm, v) in enumerate(zip(arms, value, strict=True))
    )


def _convert_dict(hint: Any, value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is {value!r}; want a table of keys")
    _, arm = typing.get_args(hint)
    return {str(key): _convert(arm, item, f"{where}.{key}") for key, item in value.items()}


def _convert_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return _as_float(value, where)
    is_kind = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    if not is_kind:
        raise ConfigError(f"{where} is {value!r}; want {hint.__name__}")
    return value


def _as_float(value: int, where: str) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise ConfigError(f"{where} is larger than any float") from error
