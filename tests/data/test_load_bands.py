"""The pipelines of mmdet and mmseg do to each of many channels what they do to three of the same image."""

import copy
import functools

import numpy as np
import pytest
from mmengine.dataset import Compose
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from convnext_dense.config.bands import set_statistics, use_bands
from convnext_dense.config.channels import fit_to_channels
from convnext_dense.config.datasets import leaf_datasets
from convnext_dense.config.reading import read_config
from convnext_dense.data.transforms import random_state_of

SIZE = (60, 80)
CONFIGS = {
    "upernet": "configs/segmentation/upernet_convnext_t_160k.py",
    "mask_rcnn": "configs/detection/mask_rcnn_convnext_t_3x.py",
    "large_jitter": "configs/detection/v2/mask_rcnn_convnextv2_b_lsj_3x.py",
    "rtmdet": "mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py",
    "ssd": "mmdet::ssd/ssd300_coco.py",
    "detr": "mmdet::detr/detr_r50_8xb2-150e_coco.py",
}


def images(channels, dtype):
    rng = np.random.default_rng(0)
    image = rng.random((*SIZE, 13))
    image = image * 255 if dtype == np.uint8 else image * 65535 if dtype == np.uint16 else image * 3 - 1
    return image[..., :channels].astype(dtype)


@functools.cache
def config_of(path):
    return read_config(path)


def go_through(name, root, folder, image, loader, *, by_value):
    """Return what a config's pipeline and preprocessor make of an image."""
    cfg = copy.deepcopy(config_of(name if "::" in name else root / name))
    init_default_scope(cfg.default_scope)
    channels = image.shape[2]
    use_bands(cfg, channels)
    mean, std = (list(map(float, of(by_value, axis=(0, 1)))) for of in (np.mean, np.std))
    set_statistics(cfg, mean[:channels], std[:channels])
    fit_to_channels(cfg)
    np.save(folder / "image.npy", image)
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(folder / "label.png")
    polygon = [[10, 10, 50, 10, 50, 40, 10, 40]]
    instance = dict(bbox=[10, 10, 50, 40], bbox_label=0, ignore_flag=0, mask=polygon)
    data = dict(img_path=str(folder / "image.npy"), img_id=1, height=SIZE[0], width=SIZE[1], instances=[instance])
    data.update(seg_map_path=str(folder / "label.png"), seg_fields=[], reduce_zero_label=False, label_map=None)
    (leaf,) = leaf_datasets(cfg[f"{loader}_dataloader"].dataset)
    with random_state_of(7):
        packed = Compose(leaf.pipeline)(data)
    assert packed["inputs"].shape[0] == channels
    preprocessor = MODELS.build(cfg.model.data_preprocessor)
    preprocessor.batch_augments = None  # these choose a size at random
    batch = dict(inputs=[packed["inputs"]], data_samples=[packed["data_samples"]])
    return packed["inputs"].numpy(), preprocessor(batch, training=loader == "train")["inputs"][0].numpy()


@pytest.mark.parametrize("loader", ["train", "test"])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_channel_goes_through_as_one_of_three(name, loader, pytestconfig, tmp_path):
    for dtype in (np.uint8, np.uint16, np.float32):
        everything = images(13, dtype)
        arguments = (CONFIGS[name], pytestconfig.rootpath, tmp_path)
        raw, normalised = go_through(*arguments, images(3, dtype), loader, by_value=everything)
        assert raw.dtype == (np.uint8 if dtype == np.uint8 else np.float32)
        for channels in (1, 2, 4, 5, 13) if dtype == np.uint8 else (4, 13):
            more_raw, more_normalised = go_through(*arguments, images(channels, dtype), loader, by_value=everything)
            both = min(channels, 3)
            scale = float(np.ptp(everything))
            np.testing.assert_allclose(more_raw[:both], raw[:both], atol=1 if dtype == np.uint8 else 1e-5 * scale)
            assert more_normalised.shape == (channels, *normalised.shape[1:])
            np.testing.assert_allclose(
                more_normalised[:both], normalised[:both], atol=2e-2 if dtype == np.uint8 else 1e-4
            )
