"""mmseg's EncoderDecoder with predictions that do not hold the logits of a whole image in memory.

Letters: C number of classes, H and W height and width of the original image, h and w of the network's input.

Source: slide_inference and postprocess_result of
https://github.com/open-mmlab/mmsegmentation/blob/v1.2.2/mmseg/models/segmentors/encoder_decoder.py and base.py
Differs: logits are averaged, resized to the original image and turned into classes a few rows at a time. Memory never
holds more than two rows of windows, ``2 * 4 * C * crop height * w`` bytes, and ten chunks of 16 MiB; mmseg holds
(C, h, w) and (C, H, W) several times over. Predictions have no ``seg_logits``.

This module imports mmseg, so configs name it in ``custom_imports``; detection does not need it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from mmengine.model import BaseTTAModel
from mmengine.structures import PixelData
from mmseg.models import EncoderDecoder
from mmseg.structures import SegDataSample
from torch import Tensor

from convnext_dense.registry import MODELS

# Smallest side, in pixels, at which a backbone's deepest map, of stride 32, has a pixel.
_LEAST_SIDE = 32
# Size of the logits to resize at once: small compared with a row of windows, large enough to keep a GPU busy.
_CHUNK_BYTES = 16 * 2**20


@MODELS.register_module()
class TiledEncoderDecoder(EncoderDecoder):
    """An encoder-decoder segmenter whose memory at test time grows with the width of the image, not with its area.

    Takes mmseg's arguments. ``test_cfg`` is ``dict(mode='slide', crop_size=, stride=)``, both (height, width) in
    pixels, or ``dict(mode='whole')``, where the network sees the whole image and (C, h, w) logits do exist.
    """

    def predict(self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None) -> Sequence[SegDataSample]:
        """Segment a batch of images.

        Args:
            inputs: (N, 3, h, w), normalised.
            data_samples: Samples whose ``metainfo`` describes how the original images became the inputs.

        Returns:
            The samples with ``pred_sem_seg``, class indices (1, H, W); without samples, mmseg's own result.
        """
        if data_samples is None:
            return super().predict(inputs)
        for sample, rows in zip(data_samples, self.iterate_logits(inputs, data_samples), strict=True):
            label_map = inputs.new_empty(sample.ori_shape[:2], dtype=torch.long)
            for top, logits in rows:
                label_map[top : top + logits.shape[1]] = self._to_classes(logits)
            sample.pred_sem_seg = PixelData(data=label_map[None])
        return data_samples

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict[str, Any]]) -> Tensor:
        """Return (N, C, h, w) logits; sides below 32 pixels are padded for the network and cropped afterwards."""
        height, width = inputs.shape[2:]
        if min(height, width) >= _LEAST_SIDE:
            return super().encode_decode(inputs, batch_img_metas)
        padding = (0, max(_LEAST_SIDE - width, 0), 0, max(_LEAST_SIDE - height, 0))
        padded = F.pad(inputs, padding, mode="replicate")
        metas = [dict(meta, img_shape=padded.shape[2:]) for meta in batch_img_metas]
        return super().encode_decode(padded, metas)[:, :, :height, :width]

    def iterate_logits(
        self, inputs: Tensor, data_samples: Sequence[SegDataSample]
    ) -> Iterator[Iterator[tuple[int, Tensor]]]:
        """Iterate over the images and, for each, over logits of its rows at the original size.

        Yields:
            An iterator over pairs of the first row's index and (C, rows, W) logits, which together cover the image.
        """
        is_whole = self.test_cfg.mode == "whole"
        metas = [sample.metainfo for sample in data_samples]
        batch = self.encode_decode(inputs, metas) if is_whole else None
        for index, meta in enumerate(metas):
            blocks = self._slide(inputs[index : index + 1], meta) if batch is None else iter([batch[index]])
            left, right, top, bottom = meta.get("img_padding_size", meta.get("padding_size", (0, 0, 0, 0)))
            height, width = inputs.shape[2] - top - bottom, inputs.shape[3] - left - right
            content = _crop(blocks, top=top, left=left, height=height, width=width)
            rows = _resize(content, (height, width), tuple(meta["ori_shape"][:2]), align_corners=self.align_corners)
            yield _unflip(rows, meta)

    def _slide(self, image: Tensor, meta: dict[str, Any]) -> Iterator[Tensor]:
        """Yield final logits from top to bottom, (C, rows, w) each, averaged over the windows that cover them."""
        _, _, height, width = image.shape
        tops, heights = _windows(height, self.test_cfg.crop_size[0], self.test_cfg.stride[0])
        lefts, widths = _windows(width, self.test_cfg.crop_size[1], self.test_cfg.stride[1])
        row_counts = _count(tops, heights, height).to(image.device)
        column_counts = _count(lefts, widths, width).to(image.device)
        sums = image.new_zeros((self.out_channels, heights, width))  # of the rows that the current windows cover
        for top, next_top in zip(tops, [*tops[1:], height], strict=True):
            for left in lefts:
                window = image[:, :, top : top + heights, left : left + widths]
                # mmseg's heads recognise a window by a torch.Size as img_shape.
                logits = self.encode_decode(window, [dict(meta, img_shape=window.shape[2:])])
                sums[:, :, left : left + widths] += logits[0]
            num_done = next_top - top
            chunk = _chunk_rows(self.out_channels, width)
            for start in range(0, num_done, chunk):
                end = min(start + chunk, num_done)
                counts = row_counts[top + start : top + end, None] * column_counts
                yield sums[:, start:end] / counts
            sums[:, : heights - num_done] = sums[:, num_done:].clone()
            sums[:, heights - num_done :] = 0

    def _to_classes(self, logits: Tensor) -> Tensor:
        """Convert (C, rows, W) logits to (rows, W) class indices."""
        if self.out_channels > 1:
            return logits.argmax(0)
        return (logits[0].sigmoid() > self.decode_head.threshold).long()


@MODELS.register_module()
class TiledTTAModel(BaseTTAModel):
    """Averages the class probabilities of a ``TiledEncoderDecoder`` over scaled and flipped copies of an image.

    It holds one (C, H, W) sum; mmseg's SegTTAModel holds one per copy.
    """

    def test_step(self, data: dict[str, list]) -> list[SegDataSample]:
        """Segment a batch of images; each entry of ``data`` holds one list per copy."""
        scores: list[Tensor] = []
        samples: Sequence[SegDataSample] = []
        for inputs, copies in zip(data["inputs"], data["data_samples"], strict=True):
            batch = self.module.data_preprocessor(dict(inputs=inputs, data_samples=copies), False)
            samples = batch["data_samples"]
            shape = (self.module.out_channels,)
            scores = scores or [batch["inputs"].new_zeros(shape + sample.ori_shape[:2]) for sample in samples]
            for total, rows in zip(scores, self.module.iterate_logits(**batch), strict=True):
                for top, logits in rows:
                    probs = logits.softmax(0) if len(logits) > 1 else logits.sigmoid()
                    total[:, top : top + logits.shape[1]] += probs / len(data["inputs"])
        return self.merge_preds([(sample, total) for sample, total in zip(samples, scores, strict=True)])

    def merge_preds(self, data_samples_list: list[tuple[SegDataSample, Tensor]]) -> list[SegDataSample]:
        """Set the class of the highest mean probability at each pixel of every sample."""
        for sample, scores in data_samples_list:
            is_binary = self.module.out_channels == 1
            classes = scores[0] > self.module.decode_head.threshold if is_binary else scores.argmax(0)
            sample.pred_sem_seg = PixelData(data=classes.long()[None])
        return [sample for sample, _ in data_samples_list]


def _windows(length: int, crop: int, stride: int) -> tuple[list[int], int]:
    """Return where windows start along an axis, and their length; the last one ends with the image."""
    size = min(crop, length)
    number = max(length - crop + stride - 1, 0) // stride + 1
    return [min(index * stride, length - size) for index in range(number)], size


def _count(starts: Sequence[int], size: int, length: int) -> Tensor:
    """Return how many windows cover each position along an axis; in two dimensions the numbers multiply."""
    counts = torch.zeros(length)
    for start in starts:
        counts[start : start + size] += 1
    return counts


def _chunk_rows(num_classes: int, width: int) -> int:
    return max(1, _CHUNK_BYTES // (4 * num_classes * width))


def _crop(blocks: Iterator[Tensor], *, top: int, left: int, height: int, width: int) -> Iterator[Tensor]:
    """Remove the padding from successive (C, rows, w) blocks, from top to bottom."""
    first = 0
    for block in blocks:
        rows = block[:, max(0, top - first) : max(0, top + height - first), left : left + width]
        first += block.shape[1]
        if rows.shape[1]:
            yield rows


def _resize(
    blocks: Iterator[Tensor], size_in: tuple[int, int], size_out: tuple[int, int], *, align_corners: bool
) -> Iterator[tuple[int, Tensor]]:
    """Resize an image given as (C, rows, w) blocks bilinearly, with the result of ``F.interpolate`` on the whole image.

    Yields:
        The index of the first row, and (C, rows, W).
    """
    above, below, weights = _neighbours(size_in[0], size_out[0], align_corners=align_corners)
    held, first = torch.empty(0), 0  # rows that are still needed, and the index of the first one
    done = 0
    for block in blocks:
        held = torch.cat([held, block], 1) if held.numel() else block
        available = int(torch.searchsorted(below, first + held.shape[1]))  # rows whose lower neighbour is available
        chunk = _chunk_rows(held.shape[0], max(size_in[1], size_out[1]))
        while done < available:
            end = min(done + chunk, available)
            weight = weights[done:end, None].to(held)
            upper, lower = (held[:, (rows[done:end] - first).to(held.device)] for rows in (above, below))
            rows = torch.lerp(upper, lower, weight)
            yield (
                done,
                F.interpolate(rows[None], (end - done, size_out[1]), mode="bilinear", align_corners=align_corners)[0],
            )
            done = end
        if done < size_out[0]:
            # A reduction may need the next row from a later block.
            num_passed = min(int(above[done]) - first, held.shape[1])
            held, first = held[:, num_passed:], first + num_passed
    assert done == size_out[0], f"{done} of {size_out[0]} rows were resized"


def _neighbours(length_in: int, length_out: int, *, align_corners: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two input rows around each output row, and the weight of the second, in float32 as torch does."""
    positions = torch.arange(length_out, dtype=torch.float32)
    if align_corners:
        positions = positions * ((length_in - 1) / max(length_out - 1, 1))
    else:
        positions = ((positions + 0.5) * (length_in / length_out) - 0.5).clamp(min=0)
    above = positions.long().clamp(max=length_in - 1)
    return above, (above + 1).clamp(max=length_in - 1), positions - above


def _unflip(rows: Iterator[tuple[int, Tensor]], meta: dict[str, Any]) -> Iterator[tuple[int, Tensor]]:
    """Undo the flip of an image's logits; after a vertical flip they come from the bottom up."""
    for top, logits in rows:
        if not meta.get("flip"):
            yield top, logits
        elif meta["flip_direction"] == "horizontal":
            yield top, logits.flip(-1)
        else:
            assert meta["flip_direction"] == "vertical", meta["flip_direction"]
            yield meta["ori_shape"][0] - top - logits.shape[1], logits.flip(-2)
