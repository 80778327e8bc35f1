"""How a config's pipelines load images and annotations."""

from collections.abc import Mapping, Sequence
from typing import Any


def image_step(pipeline: Sequence[Mapping[str, Any]]) -> int:
    """Return the position of the step that loads images: the first named ``Load...Image...``, or else the first."""
    names = [step_name(step) for step in pipeline]
    return next((i for i, name in enumerate(names) if name.startswith("Load") and "Image" in name), 0)


def loads_annotations(step: Mapping[str, Any]) -> bool:
    """Whether a step of a pipeline loads annotations or proposals."""
    name = step_name(step)
    return name.startswith("Load") and ("Annotation" in name or "Proposal" in name)


def step_name(step: Mapping[str, Any]) -> str:
    """Return the class name of a step, without its package."""
    kind = step.get("type", "")
    return (kind if isinstance(kind, str) else kind.__name__).rpartition(".")[2]
