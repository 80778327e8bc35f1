"""Output of tools/describe.py for a config. Expected numbers are published (published.json) or worked out by hand."""

import runpy
import sys
from pathlib import Path

import pytest

from convnext_dense.description import describe_config

ROOT = Path(__file__).parents[2]


def test_detector_is_described_beside_the_published_values():
    text = describe_config(ROOT / "configs/detection/mask_rcnn_convnext_t_3x.py", ROOT)
    assert "MaskRCNN on convnext_dense.ConvNeXt" in text
    assert "|           1 |      8 |           192 x 100 x 160 |" in text  # 1280 / 8 x 800 / 8, width of stage 1
    for scale in ("0.698337", "0.735092", "0.950000", "1.000000"):  # published multipliers of the learning rate
        assert scale in text
    assert "| params (M) |    48.10 |              48 |    +0.20 % |" in text
    assert "Published result: box_AP 46.2, mask_AP 41.7" in text
    assert "precision: mixed" in text
    assert "length: 36 epochs" in text


def test_segmenter_is_described_at_a_given_size_and_with_options():
    config = ROOT / "configs/segmentation/upernet_convnext_t_160k.py"
    text = describe_config(config, ROOT, options={"model.backbone.drop_path_rate": 0.2}, image_size=(64, 128))
    assert "GMACs 128 x 64" in text
    assert "96 x 16 x 32" in text
    assert "length: 160000 iterations" in text
    assert "drop path 0.2" in text
    assert "GFLOPs" not in text  # published for another size


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
