"""How a config's pipelines load images and annotations."""

from collections.abc import Mapping, Sequence
from typing import Any


def image_step(pipeline: Sequence[Mapping[str, Any]]) -> int:
    """Return the position of the step that loads images, or else 0."""
    return next((i for i, step in enumerate(pipeline) if loads_image(step)), 0)


def loads_image(step: Mapping[str, Any]) -> bool:
    """Whether a step of a pipeline loads images: it is named ``Load...Image...``, or ``LoadBands``."""
    name = step_name(step)
    return name.startswith("Load") and ("Image" in name or name == "LoadBands")


def loads_annotations(step: Mapping[str, Any]) -> bool:
    """Whether a step of a pipeline loads annotations or proposals."""
    name = step_name(step)
    return name.startswith("Load") and ("Annotation" in name or "Proposal" in name)


def step_name(step: Mapping[str, Any]) -> str:
    """Return the class name of a step, without its package."""
    kind = step.get("type", "")
    return (kind if isinstance(kind, str) else kind.__name__).rpartition(".")[2]
