"""Configs by name: our own, mmdet's and mmseg's, in read_config, in Config.fromfile, and as _base_."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config

from convnext_dense.checkpoints import read_zoo
from convnext_dense.config.reading import read_config
from convnext_dense.description.metafiles import metafile
from convnext_dense.errors import UserError
from convnext_dense.shipped import CONFIGS, find_config

ROOT = Path(__file__).parents[1]
MASK_RCNN = ROOT / "configs/detection/mask_rcnn_convnext_t_3x.py"


@pytest.mark.parametrize(
    "name",
    [
        "mask_rcnn_convnext_t_3x",
        "mask_rcnn_convnext_t_3x.py",
        "detection/mask_rcnn_convnext_t_3x",
        "configs/detection/mask_rcnn_convnext_t_3x.py",
        "convnext_dense::detection/mask_rcnn_convnext_t_3x",
        "convnext_dense::detection/mask_rcnn_convnext_t_3x.py",
    ],
)
def test_our_configs_have_names_in_every_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name).resolve() == MASK_RCNN
    assert read_config(name).model.type == "MaskRCNN"


def test_every_config_has_its_name():
    files = [path for path in (ROOT / "configs").rglob("*.py") if "_base_" not in path.parts]
    assert len(files) > 60
    for path in files:
        assert find_config(path.relative_to(ROOT / "configs").with_suffix("")).resolve() == path
        assert find_config(path.stem).resolve() == path


def test_a_file_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("detection").mkdir()
    Path("detection/mask_rcnn_convnext_t_3x.py").write_text("model = dict(type='Own')\n")
    assert find_config("detection/mask_rcnn_convnext_t_3x.py") == Path("detection/mask_rcnn_convnext_t_3x.py")
    assert find_config("detection/mask_rcnn_convnext_t_3x").resolve() == MASK_RCNN


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mask_rcnn_convnext_t_4x", r"does not exist\. Did you mean mask_rcnn_convnext_\w+\?"),
        ("finetune/mask_rcn", r"does not exist\. Did you mean finetune/mask_rcnn\?"),
        ("nothing/like/this/anywhere.py", r"anywhere\.py does not exist\.$"),
        ("", r"Config  does not exist\."),
        ("convnext_dense::finetune/mask_rcn.py", r"Did you mean convnext_dense::finetune/mask_rcnn\.py\?"),
        ("mmpose::a.py", "it must be convnext_dense, mmdet or mmseg, and installed"),
    ],
)
def test_wrong_names_are_said(name, message):
    with pytest.raises(UserError, match=message):
        find_config(name)


def test_a_name_of_several_configs_needs_its_folder(monkeypatch, tmp_path):
    for folder in ("a", "b", "_base_"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.py").write_text("")
    monkeypatch.setattr("convnext_dense.shipped.CONFIGS", tmp_path)
    with pytest.raises(UserError, match=r"same is one of a/same\.py, b/same\.py: name it with its folder"):
        find_config("same")
    assert find_config("b/same") == tmp_path / "b/same.py"


def test_configs_of_packages_are_read_by_mmengine():
    ours = Config.fromfile("convnext_dense::detection/mask_rcnn_convnext_t_3x.py")
    assert ours.model == Config.fromfile(MASK_RCNN).model
    theirs = Config.fromfile("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py")
    assert theirs.model.type == "RetinaNet"
    assert Config.fromfile(MASK_RCNN, import_custom_modules=False).model == ours.model


def test_configs_of_packages_are_bases(tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        "_base_ = 'convnext_dense::detection/mask_rcnn_convnext_t_3x.py'\n"
        "model = dict(backbone=dict(drop_path_rate=0.25), neck=dict(in_channels=_base_.model.neck.in_channels))\n"
    )
    expected = Config.fromfile(MASK_RCNN)
    expected.model.backbone.drop_path_rate = 0.25
    assert Config.fromfile(own).to_dict() == expected.to_dict()  # no part has another scope
    own.write_text("_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py']\nmodel = dict(neck=dict(num_outs=4))\n")
    cfg = Config.fromfile(own)
    assert (cfg.model.type, cfg.model.neck.num_outs, cfg.model.neck.type) == ("RetinaNet", 4, "FPN")
    own.write_text("_base_ = 'convnext_dense::detection/nothing_like_it.py'\n")
    with pytest.raises(UserError, match=r"does not exist\. Did you mean convnext_dense::"):
        Config.fromfile(own)


def test_the_package_has_the_configs_where_mim_looks():
    assert CONFIGS == ROOT / "convnext_dense/.mim/configs"
    assert CONFIGS.resolve() == ROOT / "configs"
    assert (CONFIGS.parent / "tools/train.py").resolve() == ROOT / "tools/train.py"


def test_importing_the_package_imports_none_of_what_it_changes():
    code = """if True:
        import sys
        import convnext_dense
        heavy = {"torch", "torchvision", "timm", "mmengine", "mmcv", "mmdet", "mmseg"} & set(sys.modules)
        assert not heavy, heavy
        import torch
        names = {one[1] for one in torch.serialization.get_safe_globals() if isinstance(one, tuple)}
        assert "mmengine.logging.history_buffer.HistoryBuffer" in names, names
        from mmcv.image import imresize
        assert imresize.keeps_a_pixel
        from mmengine.config import Config
        assert Config.fromfile("convnext_dense::finetune/mask_rcnn").model.type == "MaskRCNN"
        """
    subprocess.run([sys.executable, "-c", code], check=True)
    other_order = "import torch, mmcv, mmengine.config, convnext_dense\n" + code.split("import torch\n")[1].replace(
        "        ", ""
    )
    subprocess.run([sys.executable, "-c", other_order], check=True)


def test_mim_finds_every_config_with_its_numbers_and_weights():
    """By mmengine's own reader of metafiles. If files differ, run python tools/write_docs.py."""
    from mmengine.config.utils import _get_cfg_metainfo

    for entry in read_zoo().values():
        if entry.config is None:
            continue
        found = _get_cfg_metainfo(str(ROOT / "convnext_dense"), entry.config.removeprefix("configs/"))
        first = next(other for other in read_zoo().values() if other.config == entry.config)
        assert found["Weights"] == first.address
        assert [one["Metrics"] for one in found["Results"]] == ([first.published] if first.published else [])
        assert (CONFIGS.parent / found["Config"]).is_file()
    assert yaml.safe_load((ROOT / "configs/detection/metafile.yml").read_text()) == metafile("detection")
