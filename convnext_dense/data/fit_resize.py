"""Resizes images to fit into one size, as models do that were exported for one size."""

from typing import Any

from mmcv.transforms import Resize

from convnext_dense.registry import TRANSFORMS


@TRANSFORMS.register_module()
class FitResize(Resize):
    """mmcv's ``Resize``, which keeps the ratio and fits a wide image into a high size too.

    Args:
        size: (height, width) in pixels that the image fits into.
    """

    def __init__(self, size: tuple[int, int], **kwargs: Any) -> None:
        super().__init__(scale=(size[1], size[0]), **kwargs)
        self.size = size

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Resize an image and what lies on it."""
        height, width = results["img"].shape[:2]
        factor = min(self.size[0] / height, self.size[1] / width)
        self.scale = (int(width * factor + 0.5), int(height * factor + 0.5))
        return super().transform(results)
