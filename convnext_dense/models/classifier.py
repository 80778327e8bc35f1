"""Image classifier on a ConvNeXt backbone, the model that dense heads are pre-trained as.

Letters: N images, C channels of the backbone's last feature map, H height, W width, K classes.

Source: https://github.com/facebookresearch/ConvNeXt/blob/048efcea897d999aed302f2639b6270aedf8d4c8/models/convnext.py
and its main.py (arXiv 2201.03545, appendix A.1)
Differs: the backbone is a module of its own, so that its parameters stand under ``backbone.``; the loss is part of the
model, as mmengine's Runner expects; a head for another number of classes is left out by a rule and not by hand.
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
        backbone: Config of a backbone with ``channels``; the last of its feature maps is classified.
        num_classes: K.
        head_init_scale: Factor on the head's start values; the paper fine-tunes from 0.001.
        label_smoothing: Share of each target that is spread over all classes.
        mixup: None, or the arguments of timm's ``Mixup``: ``mixup_alpha``, ``cutmix_alpha``, ``switch_prob``, ``prob``,
            ``mode``. Images of a batch are mixed with one another, and so are their targets.
        data_preprocessor: See ``mmengine.model.BaseModel``; by default it moves batches to the device.
        init_cfg: None, or ``dict(type='Pretrained', checkpoint=..., prefix=...)``: a classifier in any layout, loaded
            whole. Only a head for another number of classes keeps its start, and the report says so.
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
            raise UserError("backbone has gap_before_final_norm=True, but ImageClassifier pools by itself: use False.")
        # The steps between ResNet and ConvNeXt have none.
        has_norm = getattr(self.backbone, "ends_with_norm", True)
        self.norm = nn.LayerNorm(self.backbone.channels[-1], eps=LAYER_NORM_EPS) if has_norm else nn.Identity()
        self.head = nn.Linear(self.backbone.channels[-1], num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)  # std .02 is the code's value; the paper prints .2
        self.head.weight.data.mul_(head_init_scale)
        nn.init.zeros_(self.head.bias)
        self.label_smoothing = label_smoothing
        self.mixup = None
        if mixup is not None:
            fixed = dict(type="convnext_dense.Mixup", num_classes=num_classes, label_smoothing=label_smoothing)
            self.mixup = TRANSFORMS.build(dict(mixup, **fixed))

    def forward(self, inputs: Tensor, labels: Tensor | None = None, mode: str = "tensor") -> Any:
        """Classify images, by the contract of ``mmengine.model.BaseModel``.

        Args:
            inputs: Images, ``(N, 3, H, W)``, normalised.
            labels: Class of each image, ``(N,)``; needed for the loss only.
            mode: ``'tensor'`` gives logits ``(N, K)``; ``'loss'`` gives ``dict(loss=...)``; ``'predict'`` gives one
                ``dict(scores=...)`` per image with a probability per class, ``(K,)``.

        Raises:
            UserError: The mode is unknown, or a batch that is to be mixed has an odd number of images.
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
                f"mixup mixes each image with another of its batch: a batch of {len(x_nchw)} is odd. Choose an even "
                "batch_size, and drop_last=True in train_dataloader."
            )
        mixed, targets = self.mixup(x_nchw.clone(), labels)  # in place, and the images are not ours to change
        return dict(loss=functional.cross_entropy(self._logits(mixed), targets))

    def init_weights(self) -> None:
        """Load the checkpoint of ``init_cfg`` into the whole classifier, or let the backbone load its own.

        Raises:
            UserError: The checkpoint does not hold every tensor, other than a head for another number of classes.
        """
        initialise(self, classes=ClassRows({"head.weight": (ClassDim(),), "head.bias": (ClassDim(),)}))
