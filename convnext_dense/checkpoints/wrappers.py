"""Find the weights in the content of a training file, and take off what programs put before their names."""

import os
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from convnext_dense.errors import UserError

# Keys under which training programs store the weights, in order of preference. The official programs store the moving
# average under `model_ema`. mmengine's EMAHook stores it under `state_dict`, and the raw weights, from which the
# paper's detectors are trained, under `ema_state_dict`.
_WRAPPERS = ("state_dict", "model", "model_ema", "ema_state_dict")
# torch.compile; FSDP; torch.distributed's and fairscale's activation checkpointing
_WRAPPING = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_fpw_module)\.")
_MODULE = re.compile(r"^(module\.)+")


def select_weights(content: Mapping[str, Any], prefix: str | None, source: str | os.PathLike) -> dict[str, Tensor]:
    """Return the weights under a prefix, without it.

    Args:
        content: See ``unwrap``.
        prefix: Prefix of the wanted names, such as ``'backbone.'``; None takes all. It may begin with the key of the
            state dict, such as ``'model_ema.'``.
        source: Name of the file, for messages.

    Raises:
        UserError: There is nothing under the prefix.
    """
    wrapper, prefix = split_wrapper(content, prefix)
    tensors = unwrap(content, wrapper)
    if not prefix:
        return tensors
    selected = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if not selected:
        raise UserError(f"Checkpoint {source} has nothing under prefix='{prefix}'; {sample_names(tensors)}.")
    return selected


def unwrap(content: Mapping[str, Any], wrapper: str | None = None) -> dict[str, Tensor]:
    """Take the state dict out of a training file.

    Args:
        content: Content of a file: weights, or a dict that contains them at any depth. Of several dicts, the first of
            ``state_dict``, ``model``, ``model_ema`` and ``ema_state_dict`` is taken. A dict under any other key is
            taken if it is the only one with weights; otherwise all are kept, with their keys as prefixes of the names.
        wrapper: The dict to take, as keys joined by dots.

    Returns:
        Tensors by name, without what torch's module wrappers add to names, such as ``module.``.

    Raises:
        UserError: Two tensors have the same name once these additions are removed.
    """
    for key in wrapper.split(".") if wrapper else ():
        content = content[key]
    while (taken := _taken_key(content)) is not None:
        content = content[taken]
    several = _keys_with_weights(content)
    if several:
        return {f"{key}.{name}": tensor for key in several for name, tensor in unwrap(content[key]).items()}
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    clean = {_without_wrappers(name): value for name, value in tensors.items()}
    if len(clean) < len(tensors):
        twice = next(name for name in tensors if name != _without_wrappers(name) and _without_wrappers(name) in tensors)
        raise UserError(
            f"The checkpoint has {twice} and {_without_wrappers(twice)}, which are one tensor without wrappers: remove "
            "one of them."
        )
    return clean


def split_wrapper(content: Mapping[str, Any], prefix: str | None) -> tuple[str | None, str | None]:
    """Split a prefix such as ``model_ema.backbone.`` into the keys of dicts that it begins with, and the rest."""
    if not prefix:
        return None, None
    first, _, rest = prefix.partition(".")
    if isinstance(content.get(first), Mapping):
        wrapper, rest_of_prefix = split_wrapper(content[first], rest)
        return ".".join(filter(None, (first, wrapper))), rest_of_prefix
    key = _taken_key(content)
    if key is not None:
        wrapper, rest_of_prefix = split_wrapper(content[key], prefix)
        if wrapper is not None:
            return f"{key}.{wrapper}", rest_of_prefix
    return None, _without_wrappers(prefix if prefix.endswith(".") else f"{prefix}.") or None


def _taken_key(content: Mapping[str, Any]) -> str | None:
    """Return the key of the dict to take weights from; None for ``content`` itself or if the choice is ambiguous."""
    for key in _WRAPPERS:
        child = content.get(key)
        if isinstance(child, Mapping) and (
            _keys_with_weights(child) or any(isinstance(value, Tensor) for value in child.values())
        ):
            return key
    keys = _keys_with_weights(content)
    return keys[0] if len(keys) == 1 else None


def _keys_with_weights(content: Mapping[str, Any]) -> list[str]:
    """Return the keys of dicts that contain weights at any depth; none if ``content`` itself has weights."""
    if any(_is_weight(name, value) for name, value in content.items()):
        return []
    return [
        key
        for key, value in content.items()
        if isinstance(key, str)
        and "." not in key
        and isinstance(value, Mapping)
        and (any(_is_weight(*item) for item in value.items()) or _keys_with_weights(value))
    ]


def _is_weight(name: Any, value: Any) -> bool:
    """Return whether a value is a weight of a network: its name has a module in it, unlike those of an optimizer."""
    return isinstance(value, Tensor) and isinstance(name, str) and "." in name


def _without_wrappers(name: str) -> str:
    """Remove what DataParallel, torch.compile, FSDP and activation checkpointing add to names."""
    return _MODULE.sub("", _WRAPPING.sub("", name))


def sample_names(tensors: Mapping[str, Tensor]) -> str:
    """Return how many tensors there are and the names of three, for a message."""
    return f"it holds {len(tensors)} tensors such as {', '.join(list(tensors)[:3]) or 'none'}"
