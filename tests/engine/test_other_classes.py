"""Training from a detector with other classes, as with ``tools/train.py --init-from``."""

import pytest
import torch
from mmengine.config import Config

from convnext_dense.data.shapes.coco import write_coco
from convnext_dense.engine import train_model

CONFIG = "configs/demo/mask_rcnn_convnext_atto_scratch.py"
BOX, MASK = "roi_head.bbox_head.", "roi_head.mask_head."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    write_coco(root, 2, num_val=2, image_size=(64, 64), seed=0)
    return root


@pytest.fixture(scope="module")
def trained(request, tmp_path_factory):
    """A detector with three classes, one of which the folder spells differently, and one without class names."""
    from mmengine.registry import MODELS, init_default_scope

    cfg = Config.fromfile(request.config.rootpath / CONFIG)
    init_default_scope("mmdet")
    cfg.model.roi_head.bbox_head.num_classes = cfg.model.roi_head.mask_head.num_classes = 3
    torch.manual_seed(0)
    weights = {name: torch.randn_like(value) if value.is_floating_point() else value
               for name, value in MODELS.build(cfg.model).state_dict().items()}  # fmt: skip
    path = tmp_path_factory.mktemp("trained") / "three.pth"
    torch.save(dict(state_dict=weights, meta=dict(dataset_meta=dict(classes=("dog", "STAR", "circle")))), path)
    return path, weights


def train(root, folder, tmp_path, **kwargs):
    options = {
        "train_cfg.max_epochs": 1,
        "train_dataloader.batch_size": 2,
        "train_dataloader.num_workers": 0,
        "val_dataloader": None,
        "val_cfg": None,
        "val_evaluator": None,
        "optim_wrapper.optimizer.lr": 0.0,  # the weights at the end are those at the start
        "param_scheduler": [],
    }
    train_model(root / CONFIG, options, data=str(folder), work_dir=str(tmp_path), **kwargs)
    return torch.load(tmp_path / "epoch_1.pth", weights_only=False)["state_dict"]


def test_rows_of_shared_classes_and_all_other_weights_are_loaded(request, folder, trained, tmp_path, capfd):
    path, weights = trained
    after = train(request.config.rootpath, folder, tmp_path, init_from=str(path))
    names = Config.fromfile(tmp_path / "mask_rcnn_convnext_atto_scratch.py").train_dataloader.dataset.metainfo.classes
    star, circle = names.index("star"), names.index("circle")
    assert len(names) == 6
    assert torch.equal(after[BOX + "fc_cls.weight"][[star, circle, 6]], weights[BOX + "fc_cls.weight"][[1, 2, 3]])
    boxes = after[BOX + "fc_reg.weight"].reshape(6, 4, -1)
    assert torch.equal(boxes[[star, circle]], weights[BOX + "fc_reg.weight"].reshape(3, 4, -1)[[1, 2]])
    masks = MASK + "conv_logits.bias"
    assert torch.equal(after[masks][[star, circle]], weights[masks][[1, 2]])
    others = [name for name in weights if weights[name].shape == after[name].shape and "num_batches" not in name]
    assert len(others) > 100
    assert all(torch.equal(after[name], weights[name]) for name in others)
    text = capfd.readouterr().out
    assert "2 of 6 classes start from their rows:" in text
    assert "4 are new: " in text
    assert "roi_head.bbox_head.fc_cls.weight" in text


def test_another_size_of_model_is_still_refused(request, folder, trained, tmp_path):
    _path, weights = trained
    name = "neck.lateral_convs.0.conv.weight"
    torch.save(dict(state_dict=weights | {name: torch.zeros(3, 3, 1, 1)}), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"1 of another shape.*neck\.lateral_convs\.0\.conv\.weight"):
        train(request.config.rootpath, folder, tmp_path / "run", init_from=str(tmp_path / "other.pth"))


def test_a_flag_and_an_option_that_name_two_files_are_refused(request, folder, trained, tmp_path):
    with pytest.raises(ValueError, match=r"--init-from .*three\.pth and load_from='b\.pth'"):
        train_model(
            request.config.rootpath / CONFIG, {"load_from": "b.pth"}, data=str(folder), init_from=str(trained[0]),
            work_dir=str(tmp_path),
        )  # fmt: skip
