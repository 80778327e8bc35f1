"""A detector in another code base's names fills mmdet's and gives the same outputs.

Names and outputs are those of detrex' own code, see tests/fixtures/detrex/README.md."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.registry import MODELS, init_default_scope
from safetensors.torch import load_file

from convnext_dense.checkpoints import convert_state_dict, detect_layout, load_weights
from convnext_dense.checkpoints.matching import match_weights

sys.path.append(str(Path(__file__).parents[1] / "fixtures" / "detrex"))
from drawn import images
from small_dino import FOLDER, NAMES, SMALL, dino_config, drawn_weights, small_config


def build(model):
    init_default_scope("mmdet")
    return MODELS.build(copy.deepcopy(model)).eval()


@pytest.fixture(scope="module")
def weights():
    return drawn_weights()


@pytest.fixture
def file(weights, tmp_path):
    torch.save({"model": weights, "iteration": 89999}, tmp_path / "model_final.pth")
    return tmp_path / "model_final.pth"


def samples(batch):
    return [DetDataSample(metainfo=dict(img_shape=image.shape[1:], scale_factor=(1.0, 1.0))) for image in batch]


def prepare(model, batch):
    """What mmdet's readers give, BGR, through the model's own normalization and padding."""
    bgr = [torch.from_numpy(image[::-1].copy()) for image in batch]
    return model.data_preprocessor(dict(inputs=bgr, data_samples=samples(batch)))


def test_detrex_dino_gives_the_boxes_of_its_own_code(file):
    model, expected = build(small_config().model), load_file(FOLDER / "dino_outputs.safetensors")
    load_weights(model, file)
    with torch.no_grad():
        found = model(**prepare(model, images()[:1]), mode="predict")[0].pred_instances
    torch.testing.assert_close(found.scores, expected["scores"], rtol=0, atol=1e-4)
    torch.testing.assert_close(found.bboxes, expected["boxes"], rtol=0, atol=1e-2)  # pixels
    assert torch.equal(found.labels, expected["labels"])


def test_detrex_dino_gives_the_outputs_of_every_layer_in_a_padded_batch(file):
    model, expected = build(small_config().model), load_file(FOLDER / "dino_outputs.safetensors")
    load_weights(model, file)
    data = prepare(model, images())
    with torch.no_grad():
        hidden = model.forward_transformer(model.extract_feat(data["inputs"]), data["data_samples"])
        logits, boxes = model.bbox_head(**hidden)
    torch.testing.assert_close(logits, expected["batch.logits"][:-1], rtol=0, atol=1e-4)
    torch.testing.assert_close(boxes, expected["batch.boxes"][:-1], rtol=0, atol=1e-4)
    # The first references are the boxes of the encoder's proposals.
    torch.testing.assert_close(hidden["references"][0], expected["batch.boxes"][-1], rtol=0, atol=1e-4)


def test_report_counts_every_tensor_of_the_file(file, weights):
    model = build(small_config().model)
    report = load_weights(model, file)
    assert report.layout == detect_layout(weights) == "detrex_dino"
    assert (report.missing, report.new, report.mismatched, report.unexpected) == ((), (), (), ())
    assert set(report.loaded) == set(model.state_dict())
    heads = {name for name in weights if name.startswith(("class_embed.", "bbox_embed."))}
    assert set(report.repeated) == heads
    assert len(report.loaded) + len(heads) == len(weights)
    assert f"0 reshaped, {len(heads)} repeat others, 0 in the file are not used" in str(report)


@pytest.mark.parametrize("left", ["transformer.decoder.", ""])
def test_file_with_each_head_once_is_as_good(weights, tmp_path, left):
    """safetensors does not store a tensor twice."""
    heads = ("class_embed.", "bbox_embed.")
    dropped = heads if left else tuple(f"transformer.decoder.{head}" for head in heads)
    torch.save({n: tensor for n, tensor in weights.items() if not n.startswith(dropped)}, tmp_path / "once.pth")
    model = build(small_config().model)
    assert load_weights(model, tmp_path / "once.pth").repeated == ()
    assert torch.equal(model.bbox_head.reg_branches[2][4].bias, weights["bbox_embed.2.layers.2.bias"])


def test_heads_that_differ_between_their_two_names_are_an_error(weights, tmp_path):
    torch.save(weights | {"class_embed.1.bias": weights["class_embed.1.bias"] + 1}, tmp_path / "torn.pth")
    with pytest.raises(
        ValueError,
        match=r"transformer\.decoder\.class_embed\.1\.bias and class_embed\.1\.bias are both "
        r"bbox_head\.cls_branches\.1\.bias in mmdet, but their values differ",
    ):
        load_weights(build(small_config().model), tmp_path / "torn.pth")


def test_model_without_biases_in_its_neck_is_an_error_that_names_them(file):
    """mmdet's own config has none beside a norm."""
    model = small_config().model
    model.neck.bias = "auto"
    with pytest.raises(
        ValueError, match=r"4 in the file are not used.*do not fit: neck\.convs\.0\.conv\.bias, .* with neck\.bias=True"
    ):
        load_weights(build(model), file)


@pytest.mark.parametrize(("setting", "value"), [("temperature", 20), ("offset", 0.0)])
def test_model_with_another_positional_encoding_is_an_error(file, setting, value):
    model = small_config().model
    model.positional_encoding[setting] = value
    with pytest.raises(ValueError, match=rf"positional_encoding\.{setting}={value}; detrex_dino files need "):
        load_weights(build(model), file)
    load_weights(build(model), file, allow_partial=True)


def test_tensor_that_no_rule_knows_is_named(weights, tmp_path):
    torch.save(weights | {"transformer.encoder.post_norm_layer.weight": torch.ones(256)}, tmp_path / "more.pth")
    with pytest.raises(
        ValueError, match=r"1 in the file are .* fit: transformer\.encoder\.post_norm_layer\.weight\. detr"
    ):
        load_weights(build(small_config().model), tmp_path / "more.pth")


def test_moving_average_is_selected_by_its_prefix(weights, tmp_path):
    """detrex/modeling/ema.py"""
    average = {name: tensor + 1 for name, tensor in weights.items()}
    torch.save({"model": weights, "ema_state": average}, tmp_path / "ema.pth")
    model = build(small_config().model)
    load_weights(model, tmp_path / "ema.pth")
    assert torch.equal(model.level_embed, weights["transformer.level_embeds"])
    assert len(load_weights(model, tmp_path / "ema.pth", prefix="ema_state.").loaded) == len(model.state_dict())
    assert torch.equal(model.level_embed, average["transformer.level_embeds"])


def test_names_under_a_prefix_are_found(weights, tmp_path):
    torch.save({f"detector.{name}": tensor for name, tensor in weights.items()}, tmp_path / "prefixed.pth")
    report = load_weights(build(small_config().model), tmp_path / "prefixed.pth")
    assert (report.layout, report.unexpected) == ("detrex_dino", ())


def test_backbone_of_a_detrex_file_fills_a_backbone(weights, file):
    from convnext_dense.models import ConvNeXt

    model = ConvNeXt(SMALL, out_indices=(1, 2, 3))
    report = load_weights(model, file)
    assert (report.new, report.missing) == ((), ())
    assert torch.equal(model.norm2.bias, weights["backbone.norm2.bias"])
    assert "label_enc.weight" in report.unexpected
    assert len(convert_state_dict(weights, "timm", part="backbone")) == sum(
        name.startswith(("backbone.stages.", "backbone.downsample_layers.")) for name in weights
    )


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
def test_released_sizes_have_the_names_and_shapes_of_mmdets_dino(size):
    """Every tensor of detrex' configs of ConvNeXt has its place, and every place its tensor."""
    in_file = {name: torch.zeros(()).expand(shape) for name, shape in NAMES[size].items()}
    with torch.device("meta"):
        model = MODELS.build(dino_config(size).model)
    report, _tensors = match_weights(model.state_dict(), in_file, size)
    assert (report.missing, report.new, report.mismatched, report.unexpected) == ((), (), (), ())
    assert str(report.file_variant).startswith(f"ConvNeXt {size} (")
    assert len(report.repeated) == 7 * 2 + 7 * 6  # seven heads: a linear layer for the class, three for the box
    assert len(report.loaded) + len(report.repeated) == len(in_file)
