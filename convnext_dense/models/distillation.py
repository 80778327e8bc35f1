"""Pre-training without labels by distillation: a ConvNeXt learns the features of a larger, frozen network.

Letters: N images, C channels of the student's last map, D of the teacher's, H and W size of an image in pixels; h and w
size of the student's last map, H / 32 and W / 32.

Source: our own. The teacher is any network of timm (https://github.com/huggingface/pytorch-image-models) that gives its
last map by ``forward_intermediates``; its weights have licences of their own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from mmengine.model import BaseModel
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn import functional

from convnext_dense.checkpoints import Checkpoint, fetch
from convnext_dense.errors import UserError
from convnext_dense.models.backbone import StagedBackbone, reset_parameters
from convnext_dense.models.initialising import initialise
from convnext_dense.registry import MODELS


class _Teacher:
    """A frozen network that is no part of the model: it is not saved, averaged, copied or trained."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict) -> "_Teacher":
        return self


@MODELS.register_module()
class Distillation(BaseModel):
    """Learns to turn the backbone's last map into a teacher's, position by position and as a whole, by cosine.

    Args:
        backbone: Config of a ConvNeXt of ours. Only its last map is used, without a norm unless ``output_norms`` asks
            for one.
        teacher: A name of timm with its tag, such as ``vit_small_patch16_dinov3.lvd1689m``.
        teacher_weights: Source of the teacher's weights in timm's names, see ``checkpoints.fetch``; by default
            ``timm:TEACHER``.
        mean: What was subtracted from the channels of ``inputs``, which were in [0, 1].
        std: What they were divided by then. The teacher gets what its own configuration asks for.
        data_preprocessor: See ``mmengine.model.BaseModel``; by default it moves batches to the device.
        init_cfg: None, or ``dict(type='Pretrained', checkpoint=..., prefix=...)``: a whole ``Distillation``. The
            backbone has its own.

    Raises:
        UserError: timm has no such network, it gives no map, or its weights do not fit or cannot be had.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any],
        teacher: str,
        *,
        teacher_weights: str | None = None,
        mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        std: Sequence[float] = IMAGENET_DEFAULT_STD,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        self.backbone = MODELS.build({"output_norms": "none", **backbone, "out_indices": (3,)})
        if not isinstance(self.backbone, StagedBackbone):
            raise UserError(f"Distillation needs a ConvNeXt of ours as backbone, not '{backbone.get('type')}'.")
        network = build_teacher(teacher)
        self._teacher = _Teacher(network)
        self._teacher_weights: str | None = teacher_weights or f"timm:{teacher}"
        self.proj = nn.Conv2d(self.backbone.channels[-1], network.num_features, kernel_size=1)
        self.proj.apply(reset_parameters)
        given, wanted = (torch.tensor([mean, std]), torch.tensor([network.default_cfg[key] for key in ("mean", "std")]))
        # inputs * given std + given mean is the image, of which the teacher gets (image - its mean) / its std
        self._scale = (given[1] / wanted[1])[:, None, None]
        self._shift = ((given[0] - wanted[0]) / wanted[1])[:, None, None]

    def forward(self, inputs: Tensor, seeds: Tensor | None = None, mode: str = "tensor") -> Any:
        """Compute features or learn them, following the interface of ``mmengine.model.BaseModel``.

        Args:
            inputs: Images, ``(N, 3, H, W)``, normalised.
            seeds: Ignored: nothing is drawn at random.
            mode: ``'tensor'`` returns the backbone's map, ``(N, C, h, w)``; ``'loss'`` returns ``dict(loss_map=...,
                loss_pooled=...)``, each one minus a cosine.

        Raises:
            UserError: The mode is unknown.
        """
        if mode not in ("tensor", "loss"):
            raise UserError(f"mode='{mode}' must be one of tensor, loss.")
        features = self.backbone(inputs)[-1]
        if mode == "tensor":
            return features
        ours, theirs = self.proj(features).float(), self.teach(inputs, (features.shape[2], features.shape[3]))
        return dict(
            loss_map=(1 - functional.cosine_similarity(ours, theirs, dim=1)).mean(),
            loss_pooled=(1 - functional.cosine_similarity(ours.mean((2, 3)), theirs.mean((2, 3)), dim=1)).mean(),
        )

    @torch.no_grad()
    def teach(self, inputs: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the teacher's last map of the images, averaged or interpolated to a size: ``(N, D, *size)``."""
        network: Any = self._teacher.network.to(inputs.device)
        images = inputs * self._scale.to(inputs) + self._shift.to(inputs)
        features = network.forward_intermediates(images, indices=1, intermediates_only=True, norm=True)[-1].float()
        if features.shape[2] >= size[0] and features.shape[3] >= size[1]:
            return functional.adaptive_avg_pool2d(features, size)
        return functional.interpolate(features, size, mode="bilinear")

    def init_weights(self) -> None:
        """Load the teacher, and the checkpoint of ``init_cfg`` or of the backbone's."""
        if self._teacher_weights is not None:
            load_teacher(self._teacher.network, self._teacher_weights)
            self._teacher_weights = None
        initialise(self)


def build_teacher(name: str) -> Any:
    """Build a network of timm with random weights.

    Raises:
        UserError: timm does not know it, or it gives no map.
    """
    if name.partition(".")[0] not in timm.list_models():
        near = timm.list_models(f"*{name.partition('.')[0].split('_')[0]}*")[:5]
        raise UserError(f"timm {timm.__version__} has no network '{name}'{f'; it has {near}' if near else ''}.")
    try:
        network = timm.create_model(name, num_classes=0, dynamic_img_size=True)  # a ViT, for images of any size
    except TypeError:
        network = timm.create_model(name, num_classes=0)
    if not hasattr(network, "forward_intermediates"):
        raise UserError(f"The teacher {name} gives no map of features: timm's class has no forward_intermediates.")
    return network


def load_teacher(network: nn.Module, source: str) -> None:
    """Load weights in timm's names into a network that has no head; those of a head are left out.

    Raises:
        UserError: A tensor is missing or has another shape, or the weights cannot be had.
    """
    tensors = Checkpoint(fetch(source)).tensors
    wanted = network.state_dict()
    missing = sorted(name for name in wanted if name not in tensors)
    if missing:
        raise UserError(f"{source} lacks {len(missing)} of {len(wanted)} tensors of the teacher, such as {missing[0]}.")
    for name, tensor in wanted.items():
        if tensors[name].shape != tensor.shape:
            raise UserError(
                f"{source} has {name} of shape {tuple(tensors[name].shape)}, and the teacher {tuple(tensor.shape)}."
            )
    network.load_state_dict({name: tensors[name] for name in wanted})
