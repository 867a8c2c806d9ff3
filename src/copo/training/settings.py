"""Changing single settings of a nested configuration by name: `optimiser.generator_lr=0.001`."""

from __future__ import annotations

import json
import types
import typing
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from copo.errors import CopoError, unknown_name
from copo.training.config import StageConfig

Config = TypeVar("Config")


def with_settings(config: Config, settings: typing.Iterable[str]) -> Config:
    """A configuration with some settings changed.

    Stages are named: `stages.driving.imitation.depth=20`, `stages.adversarial.kimg=500`. A group of losses is switched
    off by `stages.semantics.semantics=null`.

    Args:
        config: A dataclass.
        settings: NAME.NAME...=VALUE each; values are JSON (numbers, true, null, lists) or plain words.

    Raises:
        CopoError: A name is unknown (the nearest is suggested), or a value has the wrong type.
    """
    for setting in settings:
        path, sign, text = setting.partition("=")
        if not sign or not path.strip():
            raise CopoError(f"--set {setting!r}: write NAME=VALUE, for example optimiser.generator_lr=0.001")
        try:
            value = json.loads(text)
        except ValueError:
            value = text.strip()
        config = _changed(config, path.strip().split("."), value, setting)
    return config


def _changed(config: Any, path: list[str], value: Any, setting: str) -> Any:
    name, rest = path[0], path[1:]
    if isinstance(config, tuple) and config and isinstance(config[0], StageConfig):
        names = [stage.name for stage in config]
        if name not in names:
            raise unknown_name("stage", name, names)
        if not rest:
            raise CopoError(f"--set {setting!r}: name a setting of stage {name}")
        at = names.index(name)
        return (*config[:at], _changed(config[at], rest, value, setting), *config[at + 1 :])
    if not is_dataclass(config) or isinstance(config, type):
        raise CopoError(f"--set {setting!r}: {name!r} is below a setting that has no parts")
    known = [f.name for f in fields(config)]
    if name not in known:
        raise unknown_name("setting", name, known)
    old = getattr(config, name)
    kind = typing.get_type_hints(type(config))[name]
    if rest:
        if old is None:
            raise CopoError(f"--set {setting!r}: {name} is switched off in this configuration")
        new = _changed(old, rest, value, setting)
    else:
        new = _converted(value, kind, setting)
    return replace(config, **{name: new})


def _converted(value: Any, kind: Any, setting: str) -> Any:
    """A JSON value as a field of this type."""
    origin = typing.get_origin(kind)
    if origin is typing.Literal and value in typing.get_args(kind):
        return value
    if origin in (typing.Union, types.UnionType) and value is None and type(None) in typing.get_args(kind):
        return None
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if origin is tuple and isinstance(value, list):
        inner = typing.get_args(kind)[0]
        return tuple(_converted(v, inner, setting) for v in value)
    if kind is str and isinstance(value, str):
        return value
    raise CopoError(f"--set {setting!r}: the value has the wrong type")
