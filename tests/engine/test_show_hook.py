"""--show-dir draws every tested image into a picture of its own."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import VISUALIZERS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from PIL import Image

from convnext_dense.engine.show_hook import ShowHook

LOAD = dict(type="LoadImageFromFile")


class Data(list):
    """A data set of the files that it lists."""

    def get_data_info(self, index):
        return dict(img_path=self[index])


def draw(hook, files, samples, visualizer, log_dir):
    visualizer.dataset_meta = dict(classes=("cat", "dog"), palette=[[0, 0, 0], [255, 0, 0]])
    dataset = Data(map(str, files))
    runner = SimpleNamespace(
        test_dataloader=SimpleNamespace(dataset=dataset), visualizer=visualizer, log_dir=str(log_dir)
    )
    hook.before_test(runner)
    for file, sample in zip(files, samples, strict=True):
        sample.set_metainfo(dict(img_path=str(file)))
        hook.after_test_iter(runner, 0, outputs=[sample])


@pytest.fixture
def files(tmp_path):
    found = []
    for value, name in ((40, "one/a.jpg"), (200, "two/a.jpg"), (90, "two/b.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((20, 30, 3), value, np.uint8)).save(tmp_path / name)
        found.append(tmp_path / name)
    return found


def test_images_of_equal_names_get_separate_pictures_in_the_log_folder(files, tmp_path):
    from mmdet.structures import DetDataSample

    init_default_scope("mmdet")
    instances = InstanceData(bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.int64))
    samples = [DetDataSample(pred_instances=instances, gt_instances=instances) for _ in files]
    visualizer = VISUALIZERS.build(dict(type="DetLocalVisualizer", name="show hook, boxes"))
    draw(ShowHook("drawn", LOAD, is_in_log_dir=True, score_thr=0.3), files, samples, visualizer, tmp_path / "log")
    drawn = {path.relative_to(tmp_path / "log/drawn").as_posix() for path in (tmp_path / "log").rglob("*.*")}
    assert drawn == {"one/a.jpg.jpg", "two/a.jpg.jpg", "b.png"}
    for name, value in (("one/a.jpg.jpg", 40), ("two/a.jpg.jpg", 200), ("b.png", 90)):
        picture = cv2.imread(str(tmp_path / "log/drawn" / name))
        assert picture.shape[1] == 2 * picture.shape[0] * 30 // 20  # truth and prediction, side by side
        assert np.abs(picture.astype(int) - value).max() <= 3


def test_segmentation_is_drawn_on_what_the_model_saw(files, tmp_path):
    from mmseg.structures import SegDataSample

    init_default_scope("mmseg")
    labels = PixelData(data=torch.ones(1, 20, 30, dtype=torch.int64))
    samples = [SegDataSample(pred_sem_seg=labels, gt_sem_seg=labels) for _ in files]
    visualizer = VISUALIZERS.build(dict(type="SegLocalVisualizer", name="show hook, labels", alpha=0.5))
    hook = ShowHook(str(tmp_path / "drawn"), dict(LOAD, color_type="grayscale"), is_in_log_dir=False)
    draw(hook, files, samples, visualizer, tmp_path / "log")
    assert sorted(path.name for path in (tmp_path / "drawn").rglob("*.png")) == ["a.jpg.png", "a.jpg.png", "b.png"]
    picture = cv2.imread(str(tmp_path / "drawn/two/a.jpg.png"))
    assert picture.shape == (20, 60, 3)
    # Grey 200 under as much of the class's red, (255, 0, 0), seen where no name is written.
    np.testing.assert_allclose(picture[1, 1], [100, 100, 227.5], atol=3)


def test_picture_that_cannot_be_written_stops_the_test(files, tmp_path):
    from mmseg.structures import SegDataSample

    init_default_scope("mmseg")
    (tmp_path / "file").write_text("no folder")
    hook = ShowHook(str(tmp_path / "file"), LOAD, is_in_log_dir=False)
    visualizer = VISUALIZERS.build(dict(type="SegLocalVisualizer", name="show hook, labels"))
    labels = PixelData(data=torch.ones(1, 20, 30, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"b\.png cannot be written"):
        draw(hook, files[2:], [SegDataSample(pred_sem_seg=labels)], visualizer, tmp_path)
