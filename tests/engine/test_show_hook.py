"""--show-dir draws every tested image into a picture of its own."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData, PixelData
from PIL import Image

from convnext_dense.engine.show_hook import ShowHook

CAPTION, GAP = 18, 4  # pixels below and beside each part of a picture
LOAD = dict(type="LoadImageFromFile")


class Data(list):
    """A data set of the files that it lists."""

    @property
    def metainfo(self):
        return dict(classes=("cat", "dog"), palette=[[0, 0, 0], [255, 0, 0]])

    def get_data_info(self, index):
        return dict(img_path=self[index])


def draw(hook, files, samples, log_dir):
    runner = SimpleNamespace(test_dataloader=SimpleNamespace(dataset=Data(map(str, files))), log_dir=str(log_dir))
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


def instances(boxes, **more):
    return InstanceData(bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), **more)


def test_images_of_equal_names_get_separate_pictures_in_the_log_folder(files, tmp_path):
    from mmdet.structures import DetDataSample

    none = instances([], scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.int64))
    samples = [DetDataSample(pred_instances=none, gt_instances=none) for _ in files]
    draw(ShowHook("drawn", LOAD, is_in_log_dir=True), files, samples, tmp_path / "log")
    drawn = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "log").rglob("*.*")}
    assert drawn == {"log/drawn/one/a.jpg.jpg", "log/drawn/two/a.jpg.jpg", "log/drawn/b.png"}
    for name, value in (("one/a.jpg.jpg", 40), ("two/a.jpg.jpg", 200), ("b.png", 90)):
        picture = cv2.imread(str(tmp_path / "log/drawn" / name))
        assert picture.shape == (420 + CAPTION, 2 * (630 + GAP), 3)  # truth and prediction, 21 times as large
        for left in (0, 630 + GAP):
            assert np.abs(picture[:420, left : left + 630].astype(int) - value).max() <= 8  # of JPEG


def test_objects_are_drawn_beside_the_ground_truth(files, tmp_path):
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks

    mask = np.zeros((1, 20, 30), np.uint8)
    mask[0, 5:15, 5:15] = 1
    labels = torch.tensor([1])
    boxes = HorizontalBoxes(torch.tensor([[5.0, 5, 15, 15]]))
    truth = InstanceData(bboxes=boxes, labels=labels, masks=BitmapMasks(mask, 20, 30))
    found = instances(
        [[5, 5, 15, 15], [20, 5, 28, 12]],
        scores=torch.tensor([0.9, 0.1]),
        labels=torch.tensor([1, 0]),
        masks=torch.from_numpy(np.concatenate([mask, mask]).astype(bool)),
    )
    hook = ShowHook("drawn", LOAD, is_in_log_dir=True, score_thr=0.3)
    draw(hook, files[2:], [DetDataSample(pred_instances=found, gt_instances=truth)], tmp_path)
    picture = cv2.imread(str(tmp_path / "drawn/b.png")).astype(int)
    ours, theirs = picture[:420, :630], picture[:420, 630 + GAP : 2 * 630 + GAP]
    inside = (slice(21 * 6, 21 * 14), slice(21 * 6, 21 * 14))
    np.testing.assert_array_equal(ours[inside], theirs[inside])
    assert (np.abs(ours[inside] - 90).max(axis=2) > 20).all()
    assert (ours[21 * 16 :] == 90).all()
    assert (theirs[:, 21 * 17 :] == 90).all()  # the other object is below the threshold


@pytest.mark.parametrize("kind", ["sem_seg", "panoptic_seg"])
def test_segmentation_is_drawn_on_what_the_model_saw(files, tmp_path, kind):
    from mmdet.structures import DetDataSample
    from mmseg.structures import SegDataSample

    found, truth = torch.ones(1, 20, 30, dtype=torch.int64), torch.zeros(1, 20, 30, dtype=torch.int64)
    truth[:, :10] = 255  # no class
    maps = {"pred": found, "gt": truth}
    if kind == "panoptic_seg":
        fields = {f"{side}_{kind}": PixelData(sem_seg=value + 3000 * (value < 255)) for side, value in maps.items()}
        samples = [DetDataSample(**fields) for _ in files]
    else:
        samples = [SegDataSample(**{f"{side}_{kind}": PixelData(data=value) for side, value in maps.items()})] * 3
        samples = [sample.clone() for sample in samples]
    hook = ShowHook(str(tmp_path / "drawn"), dict(LOAD, color_type="grayscale"), is_in_log_dir=False)
    draw(hook, files, samples, tmp_path / "log")
    drawn = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert drawn == ["drawn/b.png", "drawn/one/a.jpg.png", "drawn/two/a.jpg.png", "two/b.png"]
    picture = cv2.imread(str(tmp_path / "drawn/two/a.jpg.png"))
    assert picture.shape[0] == 420 + CAPTION
    at = [picture[row, 300 + place * (630 + GAP)] for place in range(3) for row in (100, 300)]
    # Image, ground truth (nothing above, black below), prediction (red, whose BGR is (0, 0, 255)).
    wanted = [200, 200, 200, 200 * 0.45, [90, 90, 230], [90, 90, 230]]
    for given, value in zip(at, wanted, strict=True):
        np.testing.assert_allclose(given, np.broadcast_to(value, 3), atol=3)


def test_picture_that_cannot_be_written_stops_the_test(files, tmp_path):
    from mmseg.structures import SegDataSample

    (tmp_path / "file").write_text("no folder")
    hook = ShowHook(str(tmp_path / "file"), LOAD, is_in_log_dir=False)
    labels = PixelData(data=torch.ones(1, 20, 30, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"b\.png cannot be written"):
        draw(hook, files[2:], [SegDataSample(pred_sem_seg=labels)], tmp_path)
