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
    text = describe_config(ROOT / "configs/detection/mask_rcnn_convnext_t_3x.py", ROOT)
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
    text = describe_config(config, ROOT, options={"model.backbone.drop_path_rate": 0.2}, image_size=(64, 128))
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
        describe_config(tmp_path / "config.py", ROOT)
