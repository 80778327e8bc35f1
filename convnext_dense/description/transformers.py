"""Run the transformer of DINO on the meta device, where tensors have shapes and no values.

mmcv's deformable attention and DINO read the sizes of maps from tensors. Here attention knows only how many positions
there are, and DINO runs layer by layer; both compute the same products, and keep the same tensors for the gradient,
except for denoising queries, whose number depends on the objects in a batch.

Letters: N images, P positions of all levels, Q queries, C channels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def attend_without_values(model: nn.Module) -> None:
    """Let the deformable attentions of a model run on the meta device, for good."""
    for module in model.modules():
        if type(module).__name__ == "MultiScaleDeformableAttention":
            module.forward = _Attention(module)  # type: ignore[method-assign,assignment]


class _Attention:
    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, query: Tensor, *, value: Tensor | None = None, query_pos: Any = None, **_: Any) -> Tensor:
        """Return (N, Q, C), as mmcv's module does for ``batch_first=True``, on which DINO insists."""
        module, identity = self.module, query
        value = module.value_proj(query if value is None else value)
        query = query if query_pos is None else query + query_pos
        weights = module.attention_weights(query).softmax(-1)
        sampled = _Sampling.apply(value, module.sampling_offsets(query), weights)
        return module.dropout(module.output_proj(sampled)) + identity


class _Sampling(torch.autograd.Function):
    """What deformable attention does between its linear layers: it keeps what it reads, and has no product."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(value, offsets, weights)
        return value.new_empty((*offsets.shape[:2], value.shape[-1]))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        raise NotImplementedError("there are no values")


def run_dino(model: Any, features: Sequence[Tensor]) -> Tensor:
    """Run mmdet's DINO from the maps of its neck to the boxes of its last layer, (N, Q, 4)."""
    attend_without_values(model)
    memory = torch.cat([feature.flatten(2).transpose(1, 2) for feature in features], 1)  # (N, P, C)
    position = torch.empty_like(memory)
    for layer in model.encoder.layers:
        memory = layer(memory, query_pos=position, key_padding_mask=None)
    classes, boxes = model.bbox_head.cls_branches, model.bbox_head.reg_branches
    proposed = model.memory_trans_norm(model.memory_trans_fc(memory))
    classes[-1](proposed)  # of every position: the best become queries
    found = boxes[-1](proposed)
    query = model.query_embedding.weight.repeat(len(memory), 1, 1)
    for layer, to_classes, to_boxes in zip(model.decoder.layers, classes, boxes, strict=False):
        position = model.decoder.ref_point_head(query.new_empty((*query.shape[:2], 2 * query.shape[2])))
        query = layer(query, query_pos=position, value=memory, key_padding_mask=None, self_attn_mask=None)
        to_boxes(query)  # refines the boxes of the next layer
        normed = model.decoder.norm(query)
        to_classes(normed)
        found = to_boxes(normed)
    return found
