"""A detrex file goes every road that a file of ours goes: test, training and prediction."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convnext_dense.engine import evaluate_model, train_model
from convnext_dense.inference import predict

sys.path.append(str(Path(__file__).parents[1] / "fixtures" / "detrex"))
from small_dino import drawn_weights, small_config

FIVE = ("circle", "star", "square", "triangle", "crescent")
# One epoch without a test, after which the weights are those of the start.
STILL = {
    "train_cfg.max_epochs": 1,
    "optim_wrapper.optimizer.lr": 0.0,
    "param_scheduler": [],
    "val_dataloader": None,
    "val_cfg": None,
    "val_evaluator": None,
}
NONE_NEW = "0 missing, 0 of another shape, 0 reshaped, 24 repeat others, 0 in the file are not used; "


@pytest.fixture
def file(tmp_path):
    torch.save({"model": drawn_weights()}, tmp_path / "model_final.pth")
    return str(tmp_path / "model_final.pth")


@pytest.fixture
def config(shapes_folder, tmp_path):
    cfg = small_config()
    for loader, split in (("train", "train"), ("val", "val"), ("test", "val")):
        cfg[f"{loader}_dataloader"].num_workers = 0
        cfg[f"{loader}_dataloader"].persistent_workers = False
        cfg[f"{loader}_dataloader"].dataset.update(
            data_root=str(shapes_folder),
            ann_file=f"annotations/instances_{split}2017.json",
            data_prefix=dict(img=f"{split}2017/"),
            metainfo=dict(classes=FIVE),
            pipeline=[
                dict(type="LoadImageFromFile"),
                dict(type="LoadAnnotations", with_bbox=True),
                dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape")),
            ],
        )
    cfg.test_evaluator.ann_file = str(shapes_folder / "annotations/instances_val2017.json")
    for pipeline in (cfg.val_dataloader.dataset.pipeline, cfg.test_dataloader.dataset.pipeline):
        pipeline[1:1] = [dict(type="Resize", scale=(96, 96), keep_ratio=True)]
        pipeline[-1].meta_keys += ("scale_factor",)
    cfg.dump(tmp_path / "dino.py")
    return tmp_path / "dino.py"


def test_detrex_file_is_tested(config, file, tmp_path, capfd):
    metrics = evaluate_model(config, file, work_dir=str(tmp_path / "run"))
    assert "coco/bbox_mAP" in metrics
    total = len(drawn_weights()) - 24
    assert (
        f"Loaded {total} of {total} tensors from {file}: 0 output norms are new, {NONE_NEW}" in capfd.readouterr().out
    )


def test_training_starts_from_a_detrex_file(config, file, tmp_path):
    train_model(config, STILL, init_from=file, work_dir=str(tmp_path / "run"))
    after = torch.load(tmp_path / "run" / "epoch_1.pth", weights_only=False)["state_dict"]
    weights = drawn_weights()
    assert torch.equal(after["dn_query_generator.label_embedding.weight"], weights["label_enc.weight"])
    assert torch.equal(after["backbone.norm1.bias"], weights["backbone.norm1.bias"])
    assert torch.equal(after["bbox_head.cls_branches.1.weight"], weights["class_embed.1.weight"])


def test_training_on_other_classes_has_new_rows_alone(config, file, shapes_folder, tmp_path, capfd):
    train_model(config, STILL, data=str(shapes_folder), init_from=file, work_dir=str(tmp_path / "run"))
    after = torch.load(tmp_path / "run" / "epoch_1.pth", weights_only=False)["state_dict"]
    assert torch.equal(after["query_embedding.weight"], drawn_weights()["transformer.tgt_embed.weight"])
    assert after["bbox_head.cls_branches.0.weight"].shape[0] == 6
    assert "new because the numbers of classes differ: bbox_head.cls_branches.0.weight" in capfd.readouterr().out


def test_prediction_takes_the_names_of_classes_from_the_config(config, file):
    """detrex does not store them."""
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    [result] = predict(config, file, [Image.fromarray(image)], device="cpu")
    assert result["class_names"] == FIVE
    assert len(result["scores"]) == 20
