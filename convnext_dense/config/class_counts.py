"""The number of classes in a model's config: keys that count classes, and lists with one entry per class."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.registry import MODELS, DefaultScope

from convnext_dense.config.datasets import quote
from convnext_dense.errors import UserError

# Keys that count classes. Mask2Former, MaskFormer and panoptic detectors count things (objects) and stuff separately.
_COUNTS = ("num_classes", "num_things_classes")
_STUFF = "num_stuff_classes"
# Lists with one entry per class, possibly followed by further ones, such as one for "no object".
_PER_CLASS = ("class_weight", "alpha")
_EXTRA = (0, 1)
# Base classes, in mmdet, mmseg and here, of the models of each task.
_TASKS = {
    "BaseDetector": "detection",
    "BaseSegmentor": "segmentation",
    "ImageClassifier": "classification",
    "MaskedAutoencoder": "pretraining",
    "Distillation": "pretraining",
}
# Parts that count something else: an RPN tells objects from background, whatever the number of classes.
_OTHER_COUNTS = ("backbone", "teacher_backbone", "rpn_head", "semantic_head", "reid")


class Count(NamedTuple):
    """A place in a model's config that counts classes.

    Attributes:
        place: The dotted key of the part, such as ``roi_head.bbox_head``.
        node: The part's config.
        key: The key of the count.
    """

    place: str
    node: ConfigDict
    key: str

    @property
    def value(self) -> int:
        """The number of classes."""
        return self.node[self.key]


def class_counts(model: ConfigDict, current: int | None = None) -> list[Count]:
    """Find the parts of a model's config that count the classes of its data.

    Args:
        model: The model's config.
        current: The current number of classes; by default the number that most parts have. Parts with another
            number, such as a head for edges beside one for 19 classes, count something else.
    """
    counts = list(_find_counts(model))
    values = [count.value for count in counts]
    if current not in values:
        current = Counter(values).most_common(1)[0][0] if values else None
    return [count for count in counts if count.value == current]


def num_classes(model: ConfigDict) -> int | None:
    """Return the number of classes in a model's config, including stuff; None if no part counts them."""
    return next((count.value + count.node.get(_STUFF, 0) for count in class_counts(model)), None)


def set_num_classes(model: ConfigDict, num_classes: int, *, current: int | None = None) -> None:
    """Set the number of classes of every part of a model's config, in place.

    Class weights that are equal for all classes are adapted. Others were chosen for other classes: unless their number
    already fits, they are dropped, which is logged. A part that counts things and stuff keeps only things, which is
    what annotated objects are.

    Args:
        model: The model's config.
        num_classes: The new number of classes.
        current: See ``class_counts``.

    Raises:
        UserError: No part counts classes.
    """
    counts = class_counts(model, current)
    if str(model.get("type")).rpartition(".")[2] == "ImageClassifier":
        model.num_classes = num_classes  # it has a default, so the config may lack it
    elif not counts and not _is_without_classes(model):
        raise UserError(
            f"No part of the model {model.get('type')} counts classes (num_classes): set their number, {num_classes}, "
            "in the config."
        )
    for place, node, key in counts:
        before = node[key] + node.get(_STUFF, 0)
        for name, holder in _per_class_lists(node):
            weights = list(holder[name])
            if len(weights) >= before and len(set(weights[:before])) == 1:
                holder[name] = weights[:1] * num_classes + weights[before:]
            elif len(weights) - before in _EXTRA and len(weights) - num_classes not in _EXTRA:
                holder[name] = None
                print_log(f"model.{place}: the {len(weights)} values of {name}, made for other classes, are left out.")
        if node.get("out_channels") in (before, 1) and num_classes != before:  # 1: two classes told apart by one output
            node.out_channels = num_classes
        node[key] = num_classes
        if _STUFF in node:
            node[_STUFF] = 0


def check_class_counts(model: ConfigDict, classes: Sequence[str], source: Any) -> None:
    """Check class counts and lists with one entry per class in a model's config against class names.

    Args:
        model: The model's config.
        classes: The class names.
        source: Origin of the names, for the message.

    Raises:
        UserError: A class count, or the length of a list, does not fit the number of names.
    """
    counts = list(_find_counts(model))
    for place, node, key in counts:
        number = node[key] + node.get(_STUFF, 0)
        if node[key] != len(classes) and not (node.get("out_channels") == 1 and len(counts) > 1):
            raise UserError(
                f"The config's {node.get('type')} has {key}={node[key]}, but there are {len(classes)} classes "
                f"({quote(classes)}) for {source}."
            )
        for name, holder in _per_class_lists(node):
            if len(holder[name]) - number not in _EXTRA:
                raise UserError(
                    f"model.{place} has {len(holder[name])} values of {name} ({str(list(holder[name]))[:60]}) for "
                    f"{number} classes: give one per class, or {name}=None."
                )


def task_of(cfg: Config) -> str | None:
    """Return the task of a config's model, a key of ``tasks.TASKS``, by the model's class; None if unknown."""
    model = cfg.model.get("module") or cfg.model  # the former under test-time augmentation
    kind = model.get("type")
    if isinstance(kind, str):
        with (
            DefaultScope.overwrite_default_scope(cfg.get("default_scope", "mmengine")),
            MODELS.switch_scope_and_registry(None) as registry,
        ):
            kind = registry.get(kind)
    families = {base.__name__ for base in getattr(kind, "__mro__", ())}
    return next((task for family, task in _TASKS.items() if family in families), None)


def _is_without_classes(model: ConfigDict) -> bool:
    """Whether a detector only proposes regions."""
    return "rpn_head" in model and "roi_head" not in model


def _find_counts(node: Any, place: str = "") -> Iterator[Count]:
    if isinstance(node, Mapping) and "boundary_threshold" not in node:  # a head that finds edges
        for key in _COUNTS:
            if type(node.get(key)) is int:
                yield Count(place, node, key)  # type: ignore[arg-type]
    for key, child in _children(node):
        if key not in _OTHER_COUNTS:
            yield from _find_counts(child, f"{place}.{key}".lstrip("."))


def _per_class_lists(node: ConfigDict) -> Iterator[tuple[str, Any]]:
    """Yield the per-class lists of a part, except those of nested parts that count classes themselves."""
    for key, child in _children(node):
        if key in _PER_CLASS and isinstance(child, list | tuple):
            yield key, node
        elif not (isinstance(child, Mapping) and any(name in child for name in _COUNTS)):
            yield from _per_class_lists(child)


def _children(node: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, Mapping):
        yield from list(node.items())
    elif isinstance(node, list | tuple):
        yield from enumerate(node)
