"""Per-class rows of a model's last layers: a class that the file has too starts from its rows in the file.

Letters: K classes of the model, G groups of rows (the boxes predicted at each position of a map).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor


class ClassDim(NamedTuple):
    """A dimension of a tensor with entries per class; its length is groups x (before + K + after) x width.

    Attributes:
        dim: Index of the dimension.
        groups: G; each group has entries for all classes.
        before: Number of other entries ahead of the classes in a group, each as wide as a class.
        after: Number of other entries behind the classes, such as background or "no object".
        width: Adjacent values per class, such as the four of a box.
    """

    dim: int = 0
    groups: int = 1
    before: int = 0
    after: int = 0
    width: int = 1

    def num_classes(self, length: int) -> int | None:
        """Return K for a length of the dimension; None if no K gives that length."""
        number, rest = divmod(length, self.groups * self.width)
        number -= self.before + self.after
        return number if rest == 0 and number >= 0 else None

    def entries(self, classes: Sequence[int], num_classes: int) -> Tensor:
        """Return the indices of the entries before the classes, of the given classes in turn, and of those after."""
        kept = [*range(self.before), *(self.before + index for index in classes)]
        kept += range(self.before + num_classes, self.before + num_classes + self.after)
        length = self.before + num_classes + self.after
        whole = torch.arange(self.groups * length * self.width).reshape(self.groups, length, self.width)
        return whole[:, kept].flatten()


def measure_class_dims(
    some: Mapping[str, Sequence[int]], one_more: Mapping[str, Sequence[int]], num_classes: int
) -> dict[str, tuple[ClassDim, ...]]:
    """Find the tensors with entries per class, from the shapes of one model built for K and for K + 1 classes.

    A shape does not tell the order of the entries. Convolutions that predict several boxes per position keep the
    entries of one box together; linear layers keep those of one class together. Background and "no object" come after
    the classes. Where there are more other entries, such as the five of YOLOv3, they come before the classes, and so do
    the other inputs of a layer.
    Source: the heads of https://github.com/open-mmlab/mmdetection/tree/v3.3.0/mmdet/models and of
    https://github.com/open-mmlab/mmsegmentation/tree/v1.2.2/mmseg/models, which read their outputs in this order.

    Args:
        some: Shape of every tensor, for ``num_classes`` classes.
        one_more: Shape of every tensor, for one class more.
        num_classes: K of ``some``.

    Returns:
        The class dimensions by tensor name; an empty tuple for a tensor whose order of entries cannot be inferred.
    """
    found: dict[str, tuple[ClassDim, ...]] = {}
    for name, shape in some.items():
        longer = one_more.get(name, shape)
        if list(longer) == list(shape):
            continue
        weight = some.get(f"{name.rpartition('.')[0]}.weight", shape)  # a bias has the order of its weight
        measured = [
            _measure_dim(dim, shape[dim], longer[dim], num_classes, is_map=len(weight) == 4)
            for dim in range(len(shape))
            if shape[dim] != longer[dim]
        ]
        found[name] = tuple(dim for dim in measured if dim is not None) if None not in measured else ()
    return found


def _measure_dim(dim: int, length: int, longer: int, num_classes: int, *, is_map: bool) -> ClassDim | None:
    per_class = longer - length
    others, rest = divmod(length - per_class * num_classes, per_class)
    if rest or others < 0:
        return None
    groups, width = (per_class, 1) if is_map else (1, per_class)
    is_behind = dim == 0 and others <= 2
    return ClassDim(dim, groups, before=0 if is_behind else others, after=others if is_behind else 0, width=width)


def read_class_names(content: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the class names that mmengine, mmdet 2 or mmseg 0 stored in a checkpoint, or None."""
    meta = content.get("meta")
    if not isinstance(meta, Mapping):
        return None
    names = (meta.get("dataset_meta") or {}).get("classes") or meta.get("CLASSES")
    return (names,) if isinstance(names, str) else tuple(names) if names else None


@dataclass
class ClassRows:
    """Copies per-class rows of a file into a model by class name.

    Case, spaces, hyphens and underscores in names are ignored.

    Attributes:
        dims: The tensors with entries per class, see ``measure_class_dims``.
        names: Class names of the model; None if its classes have no names.
        names_in_file: Class names of the file; None if the file does not store them.
        new: Tensors that take no row from the file; set by ``fill``.
        filled: Tensors that take some rows from the file; set by ``fill``.
    """

    dims: Mapping[str, tuple[ClassDim, ...]]
    names: Sequence[str] | None = None
    names_in_file: Sequence[str] | None = None
    new: list[str] = field(default_factory=list)
    filled: list[str] = field(default_factory=list)

    def fill(self, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Replace each per-class tensor of a file by the model's own, with the rows of shared classes copied into it.

        Args:
            found: Tensors of the file, by the model's names.
            wanted: Tensors of the model, with their initial values.

        Returns:
            The tensors of ``found`` without those that share no row with the model. A tensor whose shape differs in
            more than the number of classes is returned unchanged.
        """
        self.new, self.filled = [], []
        result = dict(found)
        for name, dims in self.dims.items():
            if name not in found or name not in wanted or _differ_elsewhere(found[name], wanted[name], dims):
                continue
            tensor = self._fill_one(found[name], wanted[name], dims)
            if tensor is not None:
                result[name] = tensor
                if tensor is not found[name]:
                    self.filled.append(name)
            else:
                result.pop(name)
                self.new.append(name)
        return result

    def _fill_one(self, in_file: Tensor, in_model: Tensor, dims: Sequence[ClassDim]) -> Tensor | None:
        numbers = {(dim.num_classes(in_file.shape[dim.dim]), dim.num_classes(in_model.shape[dim.dim])) for dim in dims}
        if self.names is None or self.names_in_file is None:
            return in_file if in_file.shape == in_model.shape else None
        if numbers != {(len(self.names_in_file), len(self.names))}:
            return None
        shared = self.shared
        to, come_from = ([torch.arange(length) for length in tensor.shape] for tensor in (in_model, in_file))
        for dim in dims:
            to[dim.dim] = dim.entries(list(shared), len(self.names))
            come_from[dim.dim] = dim.entries(list(shared.values()), len(self.names_in_file))
        if not all(map(len, to)):
            return None
        filled = in_model.clone()
        filled[_grid(to, filled.device)] = in_file[_grid(come_from, in_file.device)].to(filled)
        return filled

    @property
    def shared(self) -> dict[int, int]:
        """Index in the model to index in the file, for every class that both have."""
        if self.names is None or self.names_in_file is None:
            return {}
        exact = {name: place for place, name in enumerate(self.names_in_file)}
        loose = {_normalise(name): place for name, place in exact.items()}
        if len(loose) < len(exact) or len({_normalise(name) for name in self.names}) < len(self.names):
            loose = {}  # names that differ in case alone are different classes
        places = {index: exact.get(name, loose.get(_normalise(name))) for index, name in enumerate(self.names)}
        return {index: place for index, place in places.items() if place is not None}

    def __str__(self) -> str:
        """Return which classes start from their rows in the file, and in which tensors."""
        if not self.filled and not self.new:
            return ""
        if self.names is None or self.names_in_file is None:
            return f"new because the numbers of classes differ: {', '.join(self.new)}"
        known = [self.names[index] for index in self.shared]
        others = [name for name in self.names if name not in known]
        text = f"{len(known)} of {len(self.names)} classes start from their rows{_listing(known)}"
        text += f"; {len(others)} {'is' if len(others) == 1 else 'are'} new{_listing(others)}" if others else ""
        text += f", in {', '.join(self.filled)}" if self.filled else ""
        return text + (f"; wholly new: {', '.join(self.new)}" if self.new else "")


def _grid(indices: Sequence[Tensor], device: torch.device) -> tuple[Tensor, ...]:
    """Return the index tensors of every combination of entries."""
    return torch.meshgrid([index.to(device) for index in indices], indexing="ij")


def _differ_elsewhere(in_file: Tensor, in_model: Tensor, dims: Sequence[ClassDim]) -> bool:
    if in_file.dim() != in_model.dim():
        return True
    counted = {dim.dim for dim in dims}
    sides = zip(in_file.shape, in_model.shape, strict=True)
    return bool(dims) and any(old != new for dim, (old, new) in enumerate(sides) if dim not in counted)


def _normalise(name: str) -> str:
    return name.casefold().translate({ord(mark): None for mark in " _-\t"})


def _listing(names: Sequence[str], limit: int = 20) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f": {', '.join(names[:limit])}{more}" if names else ""
