"""Models with queries, DINO and Deformable DETR for boxes and Mask2Former for labels, as operators that torch exports.

The layers are those of the model. What reads the sizes of maps from tensors, or counts with them, is replaced: sizes
are whole numbers or symbols here. Images of a batch have padding below and on the right, which attention leaves out;
where it is follows from the sizes of the images, without a branch.

Letters: N images, C channels, H and W height and width of the input, L levels; a level has the size (h, w), and the
levels are concatenated to S positions. M heads, D channels per head, Q queries, P points, n results per image, K
classes.

Source: mmdet 3.3.0, models/detectors/{deformable_detr,dino}.py, models/dense_heads/detr_head.py and
models/layers/msdeformattn_pixel_decoder.py; mmseg 1.2.2, models/decode_heads/mask2former_head.py; mmcv 2.1.0,
ops/multi_scale_deform_attn.py.
Differs: the embedding of a position that is padding is another one; nothing reads it.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample, interpolate, linear, scaled_dot_product_attention

from convnext_dense.errors import UserError
from convnext_dense.export.boxes import Results, best_of_level, clip

SUPPORTED = "of the detectors with queries, mmdet's DINO and Deformable DETR can be"
# Methods that decide on the results; a class that has its own computes something else.
_OF_DETECTORS = ("predict", "forward_transformer", "pre_transformer", "forward_encoder", "pre_decoder",
                 "forward_decoder", "gen_encoder_output_proposals", "get_valid_ratio")  # fmt: skip
_OF_HEADS = ("forward", "predict", "predict_by_feat", "_predict_by_feat_single")
_EPS = 1e-5  # of mmdet's inverse_sigmoid


class Levels(NamedTuple):
    """The levels whose positions are concatenated; mmdet's layers hand them on as ``spatial_shapes``.

    Attributes:
        sizes: (h, w) of each level.
        widths: (L, 2), w and h of each level.
        inner: (N, L, 2), what of the widths is no padding.
        level: (S,), the level of each position.
        place: (S, 2), column and row of each position in its level.
    """

    sizes: Sequence[Sequence[int]]
    widths: Tensor
    inner: Tensor
    level: Tensor
    place: Tensor

    @classmethod
    def of(cls, maps: Sequence[Tensor], inner: Tensor | None = None) -> "Levels":
        """Return the levels of feature maps (N, C, h, w); without ``inner``, there is no padding."""
        sizes = [x.shape[2:] for x in maps]
        whole = torch.zeros((), dtype=torch.long, device=maps[0].device)
        widths = torch.stack([torch.stack([whole.new_full((), side) for side in (w, h)]) for h, w in sizes])
        level = torch.cat([whole.new_full((h * w,), number) for number, (h, w) in enumerate(sizes)])
        place = torch.cat([torch.arange(h * w, device=whole.device) for h, w in sizes])
        width = widths[level, 0]
        place = torch.stack([place % width, place // width], 1)
        return cls(sizes, widths, widths[None] if inner is None else inner, level, place)

    @property
    def ratios(self) -> Tensor:
        """The part of the widths that is no padding, (N, L, 2)."""
        return self.inner / self.widths

    @property
    def centres(self) -> Tensor:
        """The positions' x and y as fractions of what is no padding, (N, S, 2)."""
        return (self.place + 0.5) / self.inner[:, self.level]

    @property
    def padding(self) -> Tensor:
        """Which positions are padding, (N, S)."""
        return (self.place >= self.inner[:, self.level]).any(-1)


class SizedAttention(nn.Module):
    """mmcv's ``MultiScaleDeformableAttention`` with sizes that are whole numbers or symbols.

    Args:
        layer: What it replaces, whose layers it runs.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        assert layer.batch_first  # mmdet's layers insist on it
        self.layer = layer

    def forward(
        self,
        query: Tensor,
        *,
        reference_points: Tensor,
        spatial_shapes: Levels,
        value: Tensor | None = None,
        identity: Tensor | None = None,
        query_pos: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """Return (N, Q, C); the arguments are mmcv's, but for ``spatial_shapes``."""
        layer = self.layer
        heads, levels, points = layer.num_heads, layer.num_levels, layer.num_points
        values = layer.value_proj(query if value is None else value)
        if key_padding_mask is not None:
            values = values.masked_fill(key_padding_mask[..., None], 0.0)
        values = values.unflatten(2, (heads, -1)).permute(0, 2, 3, 1).flatten(0, 1)  # (N * M, D, S)
        identity = query if identity is None else identity
        if query_pos is not None:
            query = query + query_pos
        weights = layer.attention_weights(query).unflatten(2, (heads, levels * points)).softmax(-1)
        weights = weights.transpose(1, 2).flatten(0, 1)[:, None]  # (N * M, 1, Q, L * P)
        offsets = layer.sampling_offsets(query).unflatten(2, (heads, levels, points, 2))
        grid = 2 * _sampled_at(reference_points[:, :, None, :, None], offsets, spatial_shapes.widths) - 1
        grid = grid.permute(0, 2, 3, 1, 4, 5).flatten(0, 1)  # (N * M, L, Q, P, 2)
        total = values.new_zeros(())
        for level, maps in enumerate(_maps(values, spatial_shapes)):
            sampled = grid_sample(maps, grid[:, level], align_corners=False)
            total = total + (sampled * weights[..., level * points : (level + 1) * points]).sum(-1)
        total = total.reshape(query.shape[0], -1, query.shape[1]).transpose(1, 2)
        return layer.output_proj(total) + identity


def _sampled_at(reference: Tensor, offsets: Tensor, widths: Tensor) -> Tensor:
    """Return x and y of points as fractions of their level, (N, Q, M, L, P, 2).

    Args:
        reference: (N, Q, 1, L, 1, 2), or with width and height (N, Q, 1, L, 1, 4).
        offsets: (N, Q, M, L, P, 2), in positions of the level, or in P-ths of half the reference's width and height.
        widths: (L, 2).
    """
    if reference.shape[-1] == 4:
        return reference[..., :2] + offsets / offsets.shape[4] * reference[..., 2:] * 0.5
    return reference + offsets / widths[:, None]


class BatchFirstAttention(nn.Module):
    """``nn.MultiheadAttention``, whose own operators capture a batch of two images as one that may not be a single one.

    Args:
        layer: What it replaces, whose weights it uses.
    """

    def __init__(self, layer: nn.MultiheadAttention) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, **_: Any) -> Any:
        """Return (Q, N, C) and None; the mask (N * M, Q, S) is True for what is left out of (S, N, C)."""
        layer = self.layer
        q, k, v = (
            linear(x.transpose(0, 1), weight, bias).unflatten(2, (layer.num_heads, -1)).transpose(1, 2)
            for x, weight, bias in zip(
                (query, key, value), layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3), strict=True
            )
        )
        mask = None if attn_mask is None else ~attn_mask.unflatten(0, (query.shape[1], layer.num_heads))
        found = scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)
        return layer.out_proj(found).transpose(0, 1), None


def _replace_attention(model: nn.Module) -> None:
    """Replace the attention of a model in place."""
    from mmcv.ops import MultiScaleDeformableAttention

    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is MultiScaleDeformableAttention:
                setattr(module, name, SizedAttention(child))
            elif type(child) is nn.MultiheadAttention and not child.batch_first:
                setattr(module, name, BatchFirstAttention(child))


def _maps(values: Tensor, levels: Levels) -> list[Tensor]:
    """Return values (N, C, S) as maps (N, C, h, w)."""
    parts = values.split([height * width for height, width in levels.sizes], 2)
    return [part.unflatten(2, tuple(size)) for part, size in zip(parts, levels.sizes, strict=True)]


def _sequence(maps: Tensor) -> Tensor:
    """Return maps (N, C, h, w) as (N, h * w, C)."""
    return maps.flatten(2).transpose(1, 2)


def _positions(encoding: Any, embeddings: Tensor, levels: Levels) -> Tensor:
    """Return the embeddings of all positions, (N, S, C): of rows, then of columns, each plus that of the level.

    Args:
        encoding: mmdet's ``SinePositionalEncoding``.
        embeddings: (L, C), of the levels.
        levels: See ``Levels``.
    """
    count = levels.place[None] + 1.0
    if encoding.normalize:
        whole = levels.inner[:, levels.level] + encoding.eps
        count = (count + encoding.offset) / whole * encoding.scale
    channel = torch.arange(encoding.num_feats, device=count.device) // 2 * 2
    angles = count.flip(-1)[..., None] / encoding.temperature ** (channel / encoding.num_feats)
    waves = torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], -1)
    return waves.flatten(2) + embeddings[levels.level]


def _encode(encoder: Any, memory: Tensor, positions: Tensor, levels: Levels, mask: Tensor | None) -> Tensor:
    """Run the layers of an encoder on (N, S, C), with a mask (N, S) of what is padding."""
    reference = levels.centres[:, :, None] * levels.ratios[:, None]
    for layer in encoder.layers:
        memory = layer(
            query=memory,
            query_pos=positions,
            key_padding_mask=mask,
            spatial_shapes=levels,
            reference_points=reference,
        )
    return memory


def prepare_dino(model: Any) -> None:
    """Replace, in place, what ``run_dino`` cannot run as it is in mmdet's ``DINO`` or ``DeformableDETR``."""
    _replace_attention(model)
    model.gen_encoder_output_proposals = functools.partial(_proposals, model)


def run_dino(model: Any, features: Sequence[Tensor], image_sizes: Tensor, image_shape: Sequence[int]) -> Results:
    """Run mmdet's ``DINO`` or ``DeformableDETR`` after the neck.

    Args:
        model: After ``prepare_dino``.
        features: The neck's maps, (N, C, h, w) each.
        image_sizes: (N, 2), height and width of each image without padding, in pixels.
        image_shape: (H, W).

    Returns:
        The results; the groups are the labels, and none is padding.
    """
    inner = torch.stack([inner_size(image_sizes, image_shape, maps.shape[2:]) for maps in features], 1)
    levels = Levels.of(features, inner)
    mask = levels.padding
    positions = _positions(model.positional_encoding, model.level_embed, levels)
    memory = _encode(model.encoder, torch.cat([*map(_sequence, features)], 1), positions, levels, mask)
    inputs, _ = model.pre_decoder(memory=memory, memory_mask=mask, spatial_shapes=levels)
    reference = inputs["reference_points"]
    states, references = model.decoder(
        query=inputs["query"],
        value=memory,
        key_padding_mask=mask,
        reference_points=reference,
        spatial_shapes=levels,
        level_start_index=None,
        valid_ratios=levels.ratios,
        reg_branches=model.bbox_head.reg_branches if model.with_box_refine else None,
        # DINO's decoder computes the positions of queries itself.
        **(dict(query_pos=inputs["query_pos"]) if "query_pos" in inputs else dict(self_attn_mask=None)),
    )
    return _best_queries(model.bbox_head, states, [reference, *references][-2], image_sizes)


def inner_size(image_sizes: Tensor, image_shape: Sequence[int], size: Sequence[int]) -> Tensor:
    """Return how many columns and rows (N, 2) of a level (h, w) are no padding: their first pixel is none.

    Which pixel that is, is rounded in float32, as ``interpolate`` does for the masks of mmdet.
    """
    numbers = []
    for dim, (whole, length) in enumerate(zip(image_shape, size, strict=True)):
        scale = image_sizes.new_full((1,), whole) / image_sizes.new_full((1,), length)
        first = (torch.arange(length, dtype=scale.dtype, device=scale.device) * scale).floor()
        numbers.append((first < image_sizes[:, dim, None]).sum(1))
    return torch.stack(numbers[::-1], 1)


def _proposals(model: Any, memory: Tensor, _: Tensor, spatial_shapes: Levels) -> tuple[Tensor, Tensor]:
    """Return features (N, S, C) for classes and changes of boxes, and a box per position, (N, S, 4) before the sigmoid.

    A box is twice as large on each next level. Positions so near to the border that the logarithm is large have no
    proposal, and none beyond it, which are padding.
    """
    centres = spatial_shapes.centres
    side = 0.05 * 2.0**spatial_shapes.level
    boxes = torch.cat([centres, side[:, None].expand_as(centres)], -1)
    unusable = ((boxes <= 0.01) | (boxes >= 0.99)).any(-1)
    logits = (boxes / (1 - boxes)).log().masked_fill(unusable[..., None], torch.inf)
    memory = memory.masked_fill(unusable[..., None], 0.0)
    return model.memory_trans_norm(model.memory_trans_fc(memory)), logits


def _best_queries(head: Any, states: Tensor, reference: Tensor, image_sizes: Tensor) -> Results:
    """Return the best pairs of a query and a class after the last layer.

    States are (layers, N, Q, C), references before the last layer (N, Q, 2 or 4), centres or boxes as fractions of the
    image.
    """
    from mmdet.structures.bbox import bbox_cxcywh_to_xyxy

    last, state = len(states) - 1, states[-1]
    logits = (reference.clamp(min=_EPS) / (1 - reference).clamp(min=_EPS)).log()
    changes = head.reg_branches[last](state)
    known = logits.shape[-1]
    boxes = torch.cat([changes[..., :known] + logits, changes[..., known:]], -1).sigmoid()
    scores = head.cls_branches[last](state).sigmoid()
    values, labels, (found,) = best_of_level(scores, head.test_cfg.get("max_per_img", boxes.shape[1]), boxes)
    corners = bbox_cxcywh_to_xyxy(found) * image_sizes.flip(1).repeat(1, 2)[:, None]
    return Results(clip(corners, image_sizes[:, None]), values, labels)


class PixelDecoder(nn.Module):
    """mmdet's ``MSDeformAttnPixelDecoder`` with sizes that are whole numbers or symbols.

    Args:
        decoder: What it replaces, whose layers it runs.
    """

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return the map that masks come from, (N, C, h, w), and the maps that queries see, the smallest first."""
        decoder = self.decoder
        others = decoder.num_input_levels - decoder.num_encoder_levels
        maps = [conv(x) for conv, x in zip(decoder.input_convs, reversed(features[others:]), strict=True)]
        levels = Levels.of(maps)
        positions = _positions(decoder.postional_encoding, decoder.level_encoding.weight, levels)
        memory = torch.cat([*map(_sequence, maps)], 1)
        memory = _encode(decoder.encoder, memory, positions, levels, None).transpose(1, 2)
        outputs = _maps(memory, levels)
        for level in reversed(range(others)):
            lateral = decoder.lateral_convs[level](features[level])
            larger = interpolate(outputs[-1], size=lateral.shape[2:], mode="bilinear", align_corners=False)
            outputs.append(decoder.output_convs[level](lateral + larger))
        return decoder.mask_feature(outputs[-1]), outputs[: decoder.num_outs]


class MaskHead(nn.Module):
    """mmseg's ``Mask2FormerHead`` without samples, which copy sizes and cannot copy symbols.

    Args:
        head: What it replaces, which it runs; its pixel decoder is replaced.
    """

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head = head
        head.pixel_decoder = PixelDecoder(head.pixel_decoder)
        _replace_attention(self)

    def predict(self, features: Sequence[Tensor], metas: Sequence[dict[str, Any]], _: Any) -> Tensor:
        """Return the logits (N, K, H, W) of a batch whose size is ``img_shape`` of its first image."""
        scores, masks = self.head(features, [])
        masks = interpolate(masks[-1], size=metas[0]["img_shape"], mode="bilinear", align_corners=False).sigmoid()
        return torch.einsum("nqk,nqhw->nkhw", scores[-1].softmax(-1)[..., :-1], masks)


def prepare_mask2former(model: Any) -> None:
    """Replace mmseg's ``Mask2FormerHead`` of a segmenter in place, so that ``encode_decode`` can be captured.

    Other segmenters are left as they are.
    """
    head: Any = getattr(model, "decode_head", None)
    if getattr(head, "pixel_decoder", None) is None:
        return
    from mmdet.models.layers import MSDeformAttnPixelDecoder
    from mmseg.models.decode_heads import Mask2FormerHead

    if _is_same(head, Mask2FormerHead, ("predict", "forward")) and _is_same(
        head.pixel_decoder, MSDeformAttnPixelDecoder, ("forward",)
    ):
        model.decode_head = MaskHead(head)


def check_queries(model: Any) -> None:
    """Check a detector with queries, see ``check_detector``."""
    from mmdet.models.dense_heads import DeformableDETRHead
    from mmdet.models.detectors import DINO, DeformableDETR
    from mmdet.models.layers import DeformableDetrTransformerEncoder

    kind = type(model)
    if not (
        _is_same(model, DINO if issubclass(kind, DINO) else DeformableDETR, _OF_DETECTORS)
        and _is_same(model.encoder, DeformableDetrTransformerEncoder, ("forward", "get_encoder_reference_points"))
        and _is_same(model.bbox_head, DeformableDETRHead, _OF_HEADS)
    ):
        raise UserError(f"The detector {kind.__name__} cannot be exported: {SUPPORTED}.")
    if not model.bbox_head.loss_cls.use_sigmoid:
        raise UserError(
            f"The detector {kind.__name__} with softmax scores cannot be exported: loss_cls.use_sigmoid must be True."
        )


def _is_same(part: Any, base: type, names: Sequence[str]) -> bool:
    """Return whether methods of a part are those of a class."""
    return all(getattr(type(part), name, None) is getattr(base, name) for name in names)
