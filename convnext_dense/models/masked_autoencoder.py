"""Fully convolutional masked autoencoder (FCMAE): pre-training of a ConvNeXt without labels.

Letters: N images, C channels of the backbone's last map, H and W size of an image in pixels, h = H / 32 and w = W / 32
patches along them, V visible patches per image.

Source: https://github.com/facebookresearch/ConvNeXt-V2/blob/2553895753323c6fe0b2bf390683f5ea358a42b9/models/fcmae.py
and convnextv2_sparse.py (arXiv 2301.00808, section 3 and appendix A.1)
Differs: the sparse convolution is plain torch, on the visible positions alone. Global response normalisation is per
image, as it is when the backbone is used; the official sparse one sums over all images of a batch. All weights of the
decoder start with a standard deviation of .02; the official code gives its convolutions 1. Images of any size that 32
divides.
"""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from convnext_dense.errors import UserError
from convnext_dense.layers import ConvNeXtBlock
from convnext_dense.layers.visible_patches import VisiblePatches, random_masks
from convnext_dense.models.backbone import reset_parameters
from convnext_dense.models.convnext import ConvNeXt
from convnext_dense.models.initialising import initialise
from convnext_dense.registry import MODELS

PATCH_SIZE = 32  # pixels: the stride of the last stage
_EPS = 1e-6  # added to the variance of a patch


@MODELS.register_module()
class MaskedAutoencoder(BaseModel):
    """Hides patches of 32 pixels, encodes the others with a ConvNeXt, and learns to paint the hidden ones.

    Args:
        backbone: Config of a ``convnext_dense.ConvNeXt``, V2 or V1. Only its last map is used, without a norm unless
            ``output_norms`` asks for one.
        mask_ratio: Share of the patches that are hidden, in (0, 1).
        decoder_channels: Width of the decoder.
        decoder_depth: Number of its blocks, which are those of ConvNeXt V2.
        normalises_targets: Whether the pixels of a patch are learnt less their mean and over their standard deviation.
        data_preprocessor: See ``mmengine.model.BaseModel``; by default it moves batches to the device.
        init_cfg: None, or ``dict(type='Pretrained', checkpoint=..., prefix=...)``: a whole masked autoencoder. The
            backbone has its own.

    Raises:
        UserError: The backbone is another one, or a number is out of range.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any],
        *,
        mask_ratio: float = 0.6,
        decoder_channels: int = 512,
        decoder_depth: int = 1,
        normalises_targets: bool = True,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        if not 0.0 < mask_ratio < 1.0:
            raise UserError(f"mask_ratio={mask_ratio} is not in (0, 1).")
        self.backbone = MODELS.build({"output_norms": "none", **backbone, "out_indices": (3,)})
        if not isinstance(self.backbone, ConvNeXt):
            raise UserError(
                f"MaskedAutoencoder needs backbone.type='convnext_dense.ConvNeXt', not '{backbone.get('type')}'."
            )
        self.mask_ratio = mask_ratio
        self.normalises_targets = normalises_targets
        channels, pixels = self.backbone.channels[-1], PATCH_SIZE**2 * self.backbone.in_channels
        self.proj = nn.Conv2d(channels, decoder_channels, kernel_size=1)
        self.mask_token = nn.Parameter(torch.empty(1, decoder_channels, 1, 1))
        self.decoder = nn.Sequential(
            *(ConvNeXtBlock(decoder_channels, layer_scale_init_value=0, use_grn=True) for _ in range(decoder_depth))
        )
        self.pred = nn.Conv2d(decoder_channels, pixels, kernel_size=1)
        for part in (self.proj, self.decoder, self.pred):
            part.apply(reset_parameters)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, inputs: Tensor, seeds: Tensor | None = None, mode: str = "tensor") -> Any:
        """Encode or learn, following the interface of ``mmengine.model.BaseModel``.

        Args:
            inputs: Images, ``(N, in_channels, H, W)``, normalised; 32 divides H and W.
            seeds: Integers, ``(N,)``, which decide the masks, so that these do not depend on the process that an image
                comes to; by default torch's generator does.
            mode: ``'tensor'`` returns the backbone's map of whole images, ``(N, C, h, w)``; ``'loss'`` hides random
                patches and returns ``dict(loss=...)``; ``'predict'`` hides them and returns one ``dict(mask=...,
                reconstruction=...)`` per image, see ``reconstruct``.

        Raises:
            UserError: The mode is unknown, or the images have another shape.
        """
        if mode == "tensor":
            self._check_images(inputs)
            return self.backbone(inputs)[-1]
        if mode not in ("loss", "predict"):
            raise UserError(f"mode='{mode}' must be one of tensor, loss, predict.")
        mask = self.draw_mask(inputs, seeds)
        if mode == "loss":
            return dict(loss=self._loss(inputs, mask))
        painted = self.reconstruct(inputs, mask)
        return [dict(mask=one, reconstruction=image) for one, image in zip(mask, painted, strict=True)]

    def draw_mask(self, images: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Draw the patches to hide, as many in each image: ``(N, h, w)`` of booleans, True where hidden."""
        self._check_images(images)
        size = len(images), images.shape[2] // PATCH_SIZE, images.shape[3] // PATCH_SIZE
        masks = random_masks(size, self.mask_ratio, None if seeds is None else seeds.tolist())
        return masks.to(images.device)

    def encode(self, images: Tensor, mask: Tensor) -> Tensor:
        """Run the backbone on the visible patches, as if there were nothing else.

        Every layer sees and computes visible positions alone: convolutions take hidden neighbours for zeros, and norms
        over an image leave them out.

        Args:
            images: ``(N, in_channels, H, W)``; what hidden patches hold changes nothing.
            mask: ``(N, h, w)`` of booleans, True where a patch is hidden; images may have different numbers of them.

        Returns:
            ``(N, C, h, w)``, zero where hidden.

        Raises:
            UserError: The images or the mask have another shape or type.
        """
        self._check_images(images)
        expected = (len(images), *(length // PATCH_SIZE for length in images.shape[2:]))
        if mask.dtype != torch.bool or mask.shape != expected:
            raise UserError(
                f"mask must be booleans of shape {expected} for these images, got {mask.dtype} of {tuple(mask.shape)}."
            )
        counts = (~mask).flatten(1).sum(dim=1)
        different = counts.unique().tolist()
        if len(different) == 1:
            return self._encode(images, mask)
        encoded: Tensor | None = None
        for count in different:
            some = counts == count
            part = self._encode(images[some], mask[some])
            encoded = part.new_zeros(len(images), *part.shape[1:]) if encoded is None else encoded
            encoded = encoded.index_put((some,), part)
        return images.new_zeros(0, self.backbone.channels[-1], *expected[1:]) if encoded is None else encoded

    def _encode(self, images: Tensor, mask: Tensor) -> Tensor:
        """Encode images with the same number of visible patches."""
        visible = VisiblePatches(mask)
        if not len(visible.image):
            return images.new_zeros(len(images), self.backbone.channels[-1], *mask.shape[1:])
        return visible.put(self.backbone.run_patches(visible.take(images), visible.convolve))

    def decode(self, encoded: Tensor, mask: Tensor) -> Tensor:
        """Predict the pixels of all patches, ``(N, h, w, 32 * 32 * in_channels)``, row by row with the channels last.

        Args:
            encoded: See ``encode``.
            mask: See ``encode``.
        """
        x = torch.where(mask[:, None], self.mask_token, self.proj(encoded))
        return self.pred(self.decoder(x)).permute(0, 2, 3, 1)

    def reconstruct(self, images: Tensor, mask: Tensor) -> Tensor:
        """Paint hidden patches and leave the others as they are: ``(N, in_channels, H, W)``.

        A model of normalised targets knows no mean and no standard deviation of a hidden patch: the real ones are used.
        """
        pixels, target = self.decode(self.encode(images, mask), mask), to_patches(images)
        if self.normalises_targets:
            mean, std = _statistics(target)
            pixels = pixels * std + mean
        return to_images(torch.where(mask[..., None], pixels.to(target.dtype), target), images.shape[1])

    def _loss(self, images: Tensor, mask: Tensor) -> Tensor:
        target = to_patches(images)[mask].float()  # (number of hidden patches, 32 * 32 * in_channels)
        if self.normalises_targets:
            mean, std = _statistics(target)
            target = (target - mean) / std
        return (self.decode(self._encode(images, mask), mask)[mask] - target).square().mean()

    def _check_images(self, images: Tensor) -> None:
        if images.dim() != 4 or any(length % PATCH_SIZE for length in images.shape[2:]):
            raise UserError(
                f"MaskedAutoencoder expects images (N, {self.backbone.in_channels}, H, W) whose H and W are multiples "
                f"of {PATCH_SIZE}, got {tuple(images.shape)}: set transform.input_size to one."
            )

    def init_weights(self) -> None:
        """Load the checkpoint of ``init_cfg`` into the whole model, or let the backbone load its own."""
        initialise(self)


def to_patches(images: Tensor) -> Tensor:
    """Cut images ``(N, K, H, W)`` into patches ``(N, h, w, 32 * 32 * K)``, row by row with the channels last."""
    patches = images.unflatten(3, (-1, PATCH_SIZE)).unflatten(2, (-1, PATCH_SIZE))  # (N, K, h, 32, w, 32)
    return patches.permute(0, 2, 4, 3, 5, 1).flatten(3)


def to_images(patches: Tensor, channels: int) -> Tensor:
    """Join what ``to_patches`` cut: ``(N, h, w, 32 * 32 * K)`` to ``(N, K, H, W)``, with K channels."""
    parts = patches.unflatten(3, (PATCH_SIZE, PATCH_SIZE, channels))  # (N, h, w, 32, 32, K)
    return parts.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def _statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of each patch, the latter never zero."""
    return patches.mean(dim=-1, keepdim=True), (patches.var(dim=-1, keepdim=True) + _EPS).sqrt()
