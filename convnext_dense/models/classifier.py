"""Image classifier on a ConvNeXt backbone, for pre-training the backbones of dense models.

Letters: N images, C channels of the backbone's last feature map, H height, W width, K classes.

Source: https://github.com/facebookresearch/ConvNeXt/blob/048efcea897d999aed302f2639b6270aedf8d4c8/models/convnext.py
and its main.py (arXiv 2201.03545, appendix A.1)
Differs: the backbone is a separate module, so its parameters have the prefix ``backbone.``; the loss is part of the
model, as mmengine's Runner expects; a head for another number of classes is skipped by a rule, not by hand.
"""

from collections.abc import Mapping
from typing import Any

from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.nn import functional

from convnext_dense.checkpoints import ClassDim, ClassRows
from convnext_dense.errors import UserError
from convnext_dense.layers.norm import LAYER_NORM_EPS
from convnext_dense.models.initialising import initialise
from convnext_dense.registry import MODELS, TRANSFORMS


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """Backbone, global average pooling, LayerNorm, linear head; trained by cross entropy.

    Args:
        backbone: Config of a backbone with ``channels``; its last feature map is classified.
        num_classes: K.
        head_init_scale: Factor on the head's initial weights; the paper fine-tunes with 0.001.
        label_smoothing: Fraction of each target that is spread over all classes.
        mixup: None, or the arguments of timm's ``Mixup``: ``mixup_alpha``, ``cutmix_alpha``, ``switch_prob``, ``prob``,
            ``mode``. Images of a batch are mixed with each other, and so are their targets.
        data_preprocessor: See ``mmengine.model.BaseModel``; by default it moves batches to the device.
        init_cfg: None, or ``dict(type='Pretrained', checkpoint=..., prefix=...)``: a classifier in any layout, which
            must load completely. Only a head for another number of classes keeps its initial weights; the report says
            so.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any],
        num_classes: int = 1000,
        *,
        head_init_scale: float = 1.0,
        label_smoothing: float = 0.1,
        mixup: Mapping[str, Any] | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        self.backbone = MODELS.build(backbone)
        if getattr(self.backbone, "gap_before_final_norm", False):
            raise UserError(
                "backbone has gap_before_final_norm=True, but ImageClassifier pools the features itself: use False."
            )
        # The steps from ResNet to ConvNeXt have no such norm.
        has_norm = getattr(self.backbone, "ends_with_norm", True)
        self.norm = nn.LayerNorm(self.backbone.channels[-1], eps=LAYER_NORM_EPS) if has_norm else nn.Identity()
        self.head = nn.Linear(self.backbone.channels[-1], num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)  # std .02 is the code's value; the paper says .2
        self.head.weight.data.mul_(head_init_scale)
        nn.init.zeros_(self.head.bias)
        self.label_smoothing = label_smoothing
        self.mixup = None
        if mixup is not None:
            fixed = dict(type="convnext_dense.Mixup", num_classes=num_classes, label_smoothing=label_smoothing)
            self.mixup = TRANSFORMS.build(dict(mixup, **fixed))

    def forward(self, inputs: Tensor, labels: Tensor | None = None, mode: str = "tensor") -> Any:
        """Classify images, following the interface of ``mmengine.model.BaseModel``.

        Args:
            inputs: Images, ``(N, 3, H, W)``, normalised.
            labels: Class of each image, ``(N,)``; only needed for the loss.
            mode: ``'tensor'`` returns logits ``(N, K)``; ``'loss'`` returns ``dict(loss=...)``; ``'predict'`` returns
                one ``dict(scores=...)`` per image with a probability per class, ``(K,)``.

        Raises:
            UserError: The mode is unknown, or a batch for mixup has an odd number of images.
        """
        if mode == "tensor":
            return self._logits(inputs)
        if mode == "loss":
            assert labels is not None
            return self._loss(inputs, labels)
        if mode == "predict":
            return [dict(scores=scores) for scores in self._logits(inputs).float().softmax(dim=-1)]
        raise UserError(f"mode='{mode}' must be one of tensor, loss, predict.")

    def _logits(self, x_nchw: Tensor) -> Tensor:
        return self.head(self.norm(self.backbone(x_nchw)[-1].mean(dim=(2, 3))))

    def _loss(self, x_nchw: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if self.mixup is None:
            loss = functional.cross_entropy(self._logits(x_nchw), labels, label_smoothing=self.label_smoothing)
            return dict(loss=loss)
        if len(x_nchw) % 2:
            raise UserError(
                f"mixup pairs the images of a batch, but the size of this batch is odd: {len(x_nchw)}. Use an even "
                "batch_size and drop_last=True in train_dataloader."
            )
        mixed, targets = self.mixup(x_nchw.clone(), labels)  # a copy, because mixup works in place
        return dict(loss=functional.cross_entropy(self._logits(mixed), targets))

    def init_weights(self) -> None:
        """Load the checkpoint of ``init_cfg`` into the classifier, or let the backbone load its own.

        Raises:
            UserError: The checkpoint lacks a tensor, other than a head for another number of classes.
        """
        initialise(self, classes=ClassRows({"head.weight": (ClassDim(),), "head.bias": (ClassDim(),)}))
