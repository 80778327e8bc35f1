"""Output of tools/describe.py for a config. Expected numbers are published (published.json) or worked out by hand."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from convnext_dense.description import describe_config

ROOT = Path(__file__).parents[2]


def rows_of(text: str, header: str) -> dict[str, list[str]]:
    """First cell -> other cells of the table whose first column has this header."""
    table = next(part for part in re.split(r"\n(?!\|)", text) if re.match(rf"\n?\| {header} +\|", part))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()]
    return {name: rest for name, *rest in cells[2:]}


def maps_by_hand(height: int, width: int) -> list[list[str]]:
    """Strides and shapes of the four maps of ConvNeXt-T, whose stages have 96, 192, 384 and 768 channels."""
    stages = zip((4, 8, 16, 32), (96, 192, 384, 768), strict=True)
    return [[str(s), f"{channels} x {height // s} x {width // s}"] for s, channels in stages]


def test_detector_is_described_with_what_was_published_beside_it():
    text = describe_config(ROOT / "configs/detection/mask_rcnn_convnext_t_3x.py")
    assert list(rows_of(text, "feature map").values()) == maps_by_hand(800, 1280)
    scales = re.findall(r"^ +\d+ +([\d.]+) +\S+ +0.05 ", text, re.M)
    assert [float(scale) for scale in scales] == pytest.approx([0.95**depth for depth in range(7, -1, -1)], abs=5e-7)
    # arXiv 2201.03545, table 3: 48 M, 262 G, box AP 46.2, mask AP 41.7.
    sizes, published = rows_of(text, "part"), rows_of(text, "published")
    assert [published[name][1] for name in ("params (M)", "GFLOPs")] == ["48", "262"]
    assert float(published["params (M)"][0]) == float(sizes["total"][0]) == pytest.approx(48, abs=0.5)
    assert float(published["GFLOPs"][0]) == float(sizes["total"][1]) == pytest.approx(262, abs=0.5)
    assert "box_AP 46.2, mask_AP 41.7" in text
    # torchvision's convnext_tiny without its head and final norm, and with a norm on each of the four maps.
    backbone = 28_589_128 - (768 * 1000 + 1000) - 2 * 768 + 2 * (96 + 192 + 384 + 768)
    assert float(sizes["backbone"][0]) == pytest.approx(backbone / 1e6, abs=0.005)
    # Appendix A.3: mixed precision and a 3x schedule, which is 36 epochs.
    assert re.search(r"precision: mixed\n.*36 epochs", text)


def test_segmenter_is_described_at_a_given_size_and_with_options():
    config = ROOT / "configs/segmentation/upernet_convnext_t_160k.py"
    text = describe_config(config, options={"model.backbone.drop_path_rate": 0.2}, image_size=(64, 128))
    assert list(rows_of(text, "feature map").values()) == maps_by_hand(64, 128)
    assert "160000 iterations" in text  # arXiv 2201.03545, appendix A.3
    assert "drop path 0.2" in text  # the option; the config has 0.4
    published = rows_of(text, "published")
    assert list(published) == ["params (M)"]  # GFLOPs are published for another size
    # Table 4: 60 M, and 46.7 with several scales.
    assert published["params (M)"][1] == "60"
    assert float(published["params (M)"][0]) == pytest.approx(60, abs=0.5)
    assert "mIoU_ms_flip 46.7" in text


def test_step_of_the_roadmap_is_an_option_of_its_detector(monkeypatch, capsys):
    config = ROOT / "configs/detection/mask_rcnn_roadmap_3x.py"
    step = ["--step", "width", "--regime", "resnet200"]
    monkeypatch.setattr(sys, "argv", ["describe.py", str(config), *step, "--image-size", "64", "96"])
    runpy.run_path(str(ROOT / "tools/describe.py"), run_name="__main__")
    text = capsys.readouterr().out
    assert "512 x 16 x 24" in text  # four times 128
    assert "Published: nothing for this config" in text


def test_config_without_backbone_is_refused(tmp_path):
    (tmp_path / "config.py").write_text("model = dict(type='Nothing')")
    with pytest.raises(ValueError, match=r"has no model\.backbone"):
        describe_config(tmp_path / "config.py")


def test_detector_with_queries_is_described_with_its_transformer_and_its_two_learning_rates():
    """detrex: the backbone learns at a tenth of 1e-4, and norms outside of it have no weight decay."""
    text = describe_config(ROOT / "configs/detection/dino/dino_convnext_t_12e.py", image_size=(64, 96))
    sizes = rows_of(text, "part")
    # By hand: at 64 x 96 pixels the levels of strides 8 to 64 have 8 x 12 + 4 x 6 + 2 x 3 + 1 x 2 positions. Products
    # per position of an encoder layer: feed-forward, value and output of attention, offsets and weights of 8 heads,
    # 4 levels and 4 points; of proposals: a linear layer and the predictions. Decoder layers have 900 queries.
    positions, queries, c = 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2, 900, 256
    boxes, classes = 2 * c * c + 4 * c, 80 * c
    encoder = positions * (2 * c * 2048 + 2 * c * c + c * 3 * 8 * 4 * 4)
    attention = queries * 4 * c * c + 2 * queries * queries * c
    deformable = positions * c * c + queries * (c * c + c * 3 * 8 * 4 * 4)
    decoder = attention + deformable + queries * (2 * c * 2048 + 2 * c * c + c * c + 2 * boxes + classes)
    wanted = 6 * encoder + positions * (c * c + boxes + classes) + 6 * decoder
    assert float(sizes["transformer"][1]) == pytest.approx(wanted / 1e9, rel=0.01)
    rates = re.findall(r"^\| +([\d.e-]+) \| +([\d.e-]+) \| +\d+ \| +[\d.]+ \|$", text, re.M)
    assert {(float(lr), float(decay)) for lr, decay in rates} == {(1e-5, 1e-4), (1e-4, 1e-4), (1e-4, 0.0)}
    assert "box_AP 51.4" in text


def test_detector_that_pads_its_images_is_described_at_their_size():
    text = describe_config(ROOT / "configs/detection/rtmdet/rtmdet_l_convnext_b_100e.py")
    assert "GMACs 640 x 640" in text
    assert "one 640 x 640 image" in text


def test_frozen_backbone_keeps_nothing_for_the_gradient():
    text = describe_config(ROOT / "configs/segmentation/dinov3/linear_dinov3_convnext_t_40k.py")
    assert rows_of(text, "part")["backbone"][2] == "0"
