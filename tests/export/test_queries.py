"""Models with queries, run for export: held against mmdet's and mmseg's own results with the same weights.

Letters: N images, H and W height and width of the input.
"""

import copy
import math
from pathlib import Path

import onnxruntime
import pytest
import torch
from mmdet.models.dense_heads import DABDETRHead, DDQDETRHead
from mmdet.models.detectors import DABDETR, DDQDETR, DETR, DINO, ConditionalDETR, GroundingDINO
from mmdet.structures import DetDataSample
from mmengine.registry import MODELS, init_default_scope
from small_runs import SMALLEST_ARCH
from torch import nn
from torch.export import Dim
from torch.nn.functional import interpolate
from torch.testing import assert_close

from convnext_dense.config.reading import read_config
from convnext_dense.errors import UserError
from convnext_dense.export import tracing
from convnext_dense.export.queries import check_queries, inner_size, prepare_dino, prepare_mask2former, run_dino

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = {
    "model.backbone.arch": SMALLEST_ARCH,
    "model.backbone.init_cfg": None,
}
SMALL_DINO = {
    **SMALL,
    "model.neck.in_channels": [16, 24, 32],
    "model.encoder.num_layers": 2,
    "model.decoder.num_layers": 2,
    "model.num_queries": 50,
    "model.test_cfg.max_per_img": 40,
}
SMALL_MASK2FORMER = {
    **SMALL,
    "model.decode_head.in_channels": [8, 16, 24, 32],
    "model.decode_head.num_queries": 10,
    "model.decode_head.transformer_decoder.num_layers": 3,
    "model.decode_head.pixel_decoder.encoder.num_layers": 1,
}
TABLES = ("level_embed", "query_embedding.weight", "query_embed.weight", "query_feat.weight", "level_encoding.weight")


def drawn(model):
    """Weights that make all attention, offsets, classes and boxes differ."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim > 1:
                weight.copy_(noise if name.endswith(TABLES) else noise / math.sqrt(weight[0].numel()))
            else:
                weight.add_(0.1 * noise)
    return model.eval()


def build_dino(**options):
    cfg = read_config(CONFIGS / "detection/dino/dino_convnext_t_12e.py", {**SMALL_DINO, **options})
    init_default_scope("mmdet")
    return drawn(MODELS.build(cfg.model))


def build_deformable(*, refines):
    cfg = read_config(CONFIGS / "detection/dino/dino_convnext_t_12e.py", SMALL_DINO).model
    cfg.update(type="DeformableDETR", with_box_refine=refines, as_two_stage=refines)
    cfg.bbox_head.type = "DeformableDETRHead"
    cfg.pop("dn_cfg")
    init_default_scope("mmdet")
    return drawn(MODELS.build(cfg))


MODELS_WITH_BOXES = {
    "dino": build_dino,
    "deformable": lambda: build_deformable(refines=False),
    "two_stage_deformable": lambda: build_deformable(refines=True),
}


@pytest.fixture(scope="module", params=MODELS_WITH_BOXES)
def detector(request):
    torch.manual_seed(0)
    return MODELS_WITH_BOXES[request.param]()


def batch_of(shape, sizes):
    image = torch.randn((len(sizes), 3, *shape), generator=torch.Generator().manual_seed(1))
    for pixels, (height, width) in zip(image, sizes, strict=True):
        pixels[:, height:] = 0
        pixels[:, :, width:] = 0
    return image, torch.tensor(sizes, dtype=torch.float32)


@torch.no_grad()
def boxes_of_mmdet(model, image, sizes):
    samples = [
        DetDataSample(metainfo=dict(img_shape=tuple(size), batch_input_shape=tuple(image.shape[2:])))
        for size in sizes.int().tolist()
    ]
    found = [sample.pred_instances for sample in model.predict(image, samples, rescale=False)]
    return tuple(torch.stack([getattr(one, name) for one in found]) for name in ("bboxes", "scores", "labels"))


class BoxGraph(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = copy.deepcopy(model)
        prepare_dino(self.model)

    def forward(self, image, image_sizes):
        return tuple(run_dino(self.model, self.model.extract_feat(image), image_sizes, image.shape[2:]))


class Maps(nn.Module):
    """A backbone of two levels that is quick to capture."""

    def __init__(self, channels):
        super().__init__()
        self.near, self.far = nn.Conv2d(3, channels, 8, 8), nn.Conv2d(3, channels, 16, 16)

    def forward(self, image):
        return self.near(image), self.far(image)


def captured(graph, inputs):
    free = ({0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}, {0: Dim.AUTO})[: len(inputs)]
    with torch.no_grad():
        program = torch.export.export(graph.eval(), inputs, dynamic_shapes=free, strict=False)
    (image,) = (node for node in program.graph.nodes if node.name == program.graph_signature.user_inputs[0])
    assert not any(isinstance(image.meta["val"].shape[dim], int) for dim in (0, 2, 3))
    return program


def assert_same_boxes(ours, reference):
    for (name, tolerance), value, expected in zip(
        dict(boxes=1e-3, scores=1e-5, labels=0).items(), ours, reference, strict=True
    ):
        assert_close(torch.as_tensor(value), expected, atol=tolerance, rtol=0, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [((128, 160), [(128, 100), (93, 160)]), ((97, 131), [(97, 131)]), ((96, 448), [(70, 420)])],
    ids=["two_sizes", "no_padding", "near_the_border"],
)
def test_boxes_scores_and_labels_are_those_of_mmdet(detector, shape, sizes):
    image, image_sizes = batch_of(shape, sizes)
    expected = boxes_of_mmdet(detector, image, image_sizes)
    assert expected[1].std() > 1e-3
    assert len(expected[2].unique()) > 1
    with torch.no_grad():
        assert_same_boxes(BoxGraph(detector)(image, image_sizes), expected)


def test_a_level_has_the_padding_that_interpolate_gives_its_mask():
    for whole in range(32, 132, 7):
        sizes = torch.arange(1, whole + 1)
        masks = torch.arange(whole) >= sizes[:, None]
        image_sizes = torch.stack([sizes, sizes.flip(0)], 1).float()
        for length in (whole // 3, whole // 8, whole // 16, -(-whole // 32)):
            resized = interpolate(masks[None].float(), size=length)[0].bool()
            expected = (~resized).sum(1)
            found = inner_size(image_sizes, (whole, whole), (length, length))
            assert torch.equal(found, torch.stack([expected.flip(0), expected], 1)), (whole, length)


@pytest.mark.slow
def test_a_captured_dino_gives_mmdets_boxes_at_other_sizes_and_numbers_of_images(tmp_path):
    tracing.require_torch_that_exports()
    model = build_dino(
        **{
            "model.encoder.num_layers": 1,
            "model.decoder.num_layers": 1,
            "+model.num_feature_levels": 2,
            "model.encoder.layer_cfg.self_attn_cfg.num_levels": 2,
            "model.decoder.layer_cfg.cross_attn_cfg.num_levels": 2,
        }
    )
    model.backbone, model.neck = drawn(Maps(256)), nn.Identity()
    program = captured(BoxGraph(model), batch_of((96, 128), [(96, 100), (80, 128)]))
    file = tmp_path / "model.onnx"
    with torch.no_grad():
        written = torch.onnx.export(
            program, dynamo=True, opset_version=18, external_data=False, verbose=False, optimize=False
        )
        written.save(file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    for shape, sizes in (((131, 97), [(131, 97)]), ((112, 160), [(112, 97), (20, 160), (101, 133)])):
        inputs = batch_of(shape, sizes)
        outputs = session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})
        assert_same_boxes(outputs, boxes_of_mmdet(model, *inputs))


@pytest.mark.parametrize("model", [DETR, ConditionalDETR, DABDETR, DDQDETR, GroundingDINO])
def test_detectors_whose_queries_give_other_results_are_refused(model):
    with pytest.raises(UserError, match=rf"^The detector {model.__name__} cannot be exported: of the .* can be\.$"):
        check_queries(model.__new__(model))


@pytest.mark.parametrize("head", [DABDETRHead, DDQDETRHead])
def test_a_dino_with_the_head_of_another_detector_is_refused(head):
    model = build_dino()
    check_queries(model)
    model.bbox_head.__class__ = head
    with pytest.raises(UserError, match="The detector DINO cannot be exported"):
        check_queries(model)


def test_a_dino_with_a_method_of_its_own_is_refused():
    class Own(DINO):
        def pre_decoder(self, *args, **kwargs):
            raise AssertionError

    with pytest.raises(UserError, match="The detector Own cannot be exported"):
        check_queries(Own.__new__(Own))


def test_softmax_scores_are_refused():
    model = build_dino()
    model.bbox_head.loss_cls.use_sigmoid = False
    with pytest.raises(UserError, match=r"softmax scores cannot be exported: loss_cls\.use_sigmoid must be True\.$"):
        check_queries(model)


def build_segmenter(**options):
    cfg = read_config(CONFIGS / "finetune/mask2former_semantic.py", {**SMALL_MASK2FORMER, **options})
    init_default_scope("mmseg")
    return drawn(MODELS.build(cfg.model))


class LogitGraph(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = copy.deepcopy(model)
        prepare_mask2former(self.model)

    def forward(self, image):
        return self.model.encode_decode(image, [dict(img_shape=image.shape[2:])])


@pytest.mark.parametrize("shape", [(64, 96), (97, 131), (24, 80)])
def test_logits_of_mask2former_are_those_of_mmseg(shape):
    model = build_segmenter()
    image, _ = batch_of(shape, [shape, shape])
    with torch.no_grad():
        expected = model.encode_decode(image, [dict(img_shape=image.shape[2:])])
        assert expected.std() > 0.01
        assert_close(LogitGraph(model)(image), expected, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_captured_mask2former_gives_mmsegs_logits_of_one_image_of_another_size():
    one_level = dict(num_levels=1, embed_dims=256, num_heads=8, num_points=4, dropout=0.0, batch_first=True)
    model = build_segmenter(
        **{
            "model.decode_head.in_channels": [16, 16],
            "model.decode_head.strides": [8, 16],
            "model.decode_head.num_transformer_feat_level": 1,
            "model.decode_head.transformer_decoder.num_layers": 1,
            "model.decode_head.pixel_decoder.num_outs": 1,
            "model.decode_head.pixel_decoder.encoder.layer_cfg.self_attn_cfg": one_level,
        }
    )
    model.backbone = drawn(Maps(16))
    image, _ = batch_of((96, 128), [(96, 128)] * 2)
    program = captured(LogitGraph(model), (image,))
    image, _ = batch_of((131, 97), [(131, 97)])
    with torch.no_grad():
        expected = model.encode_decode(image, [dict(img_shape=image.shape[2:])])
        assert_close(program.module()(image), expected, atol=1e-4, rtol=0)


def test_other_segmenters_are_left_as_they_are():
    model = nn.Module()
    model.decode_head = nn.Conv2d(3, 3, 1)
    prepare_mask2former(model)
    assert type(model.decode_head) is nn.Conv2d
