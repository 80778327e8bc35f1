"""Applies ``--cfg-options`` to a config; an unknown name is an error, not a new key."""

import copy
import difflib
import inspect
import os
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from convnext_dense.errors import UserError

# Top-level keys that a config may have besides the Runner's arguments.
_MORE_KEYS = {
    "tta_model",
    "tta_pipeline",
    "compile",
    "activation_checkpointing",
    "find_unused_parameters",
    "effective_batch",
    "finetune",
    "strategy",
}
_ABSENT = object()


def apply_options(
    cfg: Config, options: Mapping[str, Any] | None, path: str | os.PathLike, *, is_draft: bool = False
) -> None:
    """Override single values of a config.

    Args:
        cfg: Changed in place.
        options: Values by dotted key, list positions included (``train_dataloader.dataset.pipeline.0.type``). A key
            that starts with ``+`` is added; any other must exist, or be an argument of mmengine's Runner.
        path: Path of the config, for messages.
        is_draft: Whether the config will be changed before the options are applied again, so that missing keys may
            still be added.

    Raises:
        UserError: A key does not exist (the nearest one is named), or is only a variable of the file, so that changing
            it would have no effect.
    """
    for key, value in (options or {}).items():
        name = key.removeprefix("+")
        if key == name:
            if is_draft and not _exists(cfg, key):
                continue
            _check_key(cfg, key, path)
        try:
            cfg.merge_from_dict({name: copy.deepcopy(value)})  # merging removes `_delete_` from its argument
        except (KeyError, TypeError) as error:
            if not is_draft:
                raise UserError(f"--cfg-options {key}={value!r} does not fit {path}: {error.args[0]}.") from error


def option_value(options: Mapping[str, Any] | None, key: str) -> Any:
    """Return the options' value of a key, given by itself or inside a dict; None if there is none."""
    found = _lookup_option(options, key)
    return None if found is _ABSENT else found


def check_flag(options: Mapping[str, Any] | None, key: str, value: Any, flag: str) -> None:
    """Check a command-line argument against an option that sets the same key.

    Args:
        options: See ``apply_options``.
        key: The key of the config that the argument sets.
        value: The value that the argument sets.
        flag: The argument as the user wrote it.

    Raises:
        UserError: The options set the key to another value.
    """
    given = _lookup_option(options, key)
    if given is not _ABSENT and given != value:
        raise UserError(f"{flag} and {key}={given!r} in --cfg-options contradict each other: give one of them.")


def _lookup_option(options: Mapping[str, Any] | None, key: str) -> Any:
    found = _ABSENT
    for name, value in (options or {}).items():
        name = name.removeprefix("+")
        if name != key and not key.startswith(f"{name}."):
            continue
        for part in key.removeprefix(name).split(".")[1:]:
            value = value.get(part, _ABSENT) if isinstance(value, Mapping) else _ABSENT
        found = found if value is _ABSENT else value
    return found


def _check_key(cfg: Config, key: str, path: str | os.PathLike) -> None:
    if not _exists(cfg, key):
        known = sorted(_dotted_keys(cfg.to_dict()))
        nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
        raise UserError(
            f"Config {path} has no key '{key}'. The nearest is '{nearest[0]}'; write '+{key}=...' to add a new key."
        )
    variable = key.split(".")[0]
    if variable not in _run_keys():
        value = _lookup(cfg, key)
        known = sorted(_dotted_keys(cfg.to_dict()))
        holders = [name for name in known if name.split(".")[0] in _run_keys() and _lookup(cfg, name) == value]
        hint = f"; its value is used in {', '.join(holders[:6])}" if holders else ""
        raise UserError(
            f"'{variable}' is a variable of {path}: after reading, changing it has no effect{hint}. Override those keys"
            f"{', or name your data with --data' if key.endswith('data_root') else ''}."
        )


def _exists(cfg: Config, key: str) -> bool:
    try:
        _lookup(cfg, key)
    except (KeyError, IndexError, TypeError, ValueError):
        return key in _run_keys()
    return True


def _run_keys() -> set[str]:
    return set(inspect.signature(Runner.__init__).parameters) - {"self", "cfg"} | _MORE_KEYS


def _dotted_keys(node: Any, prefix: str = "") -> Iterator[str]:
    items: Any = ()
    if isinstance(node, Mapping):
        items = node.items()
    elif isinstance(node, list | tuple):
        items = enumerate(node)
    for key, value in items:
        yield f"{prefix}{key}"
        yield from _dotted_keys(value, f"{prefix}{key}.")


def _lookup(node: Any, key: str) -> Any:
    for part in key.split("."):
        node = node[int(part)] if isinstance(node, list | tuple) else node[part]
    return node
