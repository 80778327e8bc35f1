"""Results from plain values."""

from collections.abc import Mapping, Sequence
from typing import Any

from convnext_dense.data.run_lengths import compress
from convnext_dense.inference.panoptic import Panoptic
from convnext_dense.inference.results import ClassScores, Detections, LabelMap, Result


def to_result(found: Mapping[str, Any], shape: Sequence[int]) -> Result:
    """Return a result from what ``Result.to_dict`` gives.

    Args:
        found: Such a dict; a result is returned as it is.
        shape: (height, width) of the image in pixels.
    """
    if isinstance(found, Result):
        return found
    names = tuple(found["class_names"])
    if "label_map" in found:
        return LabelMap(found["label_map"], names, found["palette"])
    if "segment_map" in found:
        return Panoptic(found["segment_map"], found["segments"], names, found["palette"])
    if "boxes" not in found:
        return ClassScores(found["scores"], found["labels"], names)
    rles = tuple(map(compress, found["masks"])) if "masks" in found else None
    height, width = shape
    return Detections(
        found["boxes"], found["scores"], found["labels"], names, (height, width), rles=rles, ids=found.get("ids")
    )
