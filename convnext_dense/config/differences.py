"""Differences between two configs, by dotted key."""

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config


class ConfigDiff(list[tuple[str, Any, Any]]):
    """Dotted key, old value and new value of every difference; prints as one line each. ``...`` stands for no value."""

    def __str__(self) -> str:
        """Return one line per difference."""
        return "\n".join(
            f"{key}: {'(none)' if old is ... else repr(old)} -> {'(removed)' if new is ... else repr(new)}"
            for key, old, new in self
        )


def diff_configs(before: Config, after: Config) -> ConfigDiff:
    """List the differences from ``before`` to ``after``."""
    return ConfigDiff(_differences(before.to_dict(), after.to_dict(), ""))


def _differences(before: Any, after: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    prefix = f"{key}." if key else ""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in [*before, *(name for name in after if name not in before)]:
            yield from _differences(before.get(name, ...), after.get(name, ...), f"{prefix}{name}")
    elif _is_list_of_dicts(before) and _is_list_of_dicts(after) and len(before) == len(after):
        for position, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _differences(old, new, f"{prefix}{position}")
    elif before is ... or after is ... or before != after:
        yield key, before, after


def _is_list_of_dicts(node: Any) -> bool:
    return isinstance(node, list | tuple) and len(node) > 0 and all(isinstance(item, Mapping) for item in node)
