"""The loading step of images that are not RGB of 8 bits.

Letters: H, W are an image's height and width in pixels, C is its number of channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from convnext_dense.data.band_files import read_bands
from convnext_dense.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadBands:
    """Loads an image of any number of channels as (H, W, C), uint8 if it has 8 bits and else float32.

    Stands in place of ``LoadImageFromFile``, and sets the same keys: ``img``, ``img_shape`` and ``ori_shape``.

    Args:
        channels: C; files with another number are refused.
        shown: The channels that pictures show as red, green and blue, or the one that they show as grey, counted from
            1; None for the first three, or the first of one or two. The model does not depend on it.
        backend_args: See mmengine's ``fileio.get``.
    """

    def __init__(
        self, channels: int, shown: Sequence[int] | None = None, *, backend_args: Mapping[str, Any] | None = None
    ) -> None:
        self.channels = channels
        self.shown = shown
        self.backend_args = None if backend_args is None else dict(backend_args)

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Read ``results['img_path']``.

        Raises:
            UserError: See ``read_bands``.
        """
        image = read_bands(results["img_path"], self.channels, backend_args=self.backend_args)
        results.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(channels={self.channels}, shown={self.shown})"
