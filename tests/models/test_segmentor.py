"""Compares the segmenter that predicts a few rows at a time with mmseg's own, using the same weights."""

import ctypes
import itertools
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData

import convnext_dense  # noqa: F401  (serves mmcv._ext, which mmseg imports)

NUM_CLASSES = 5


@pytest.fixture(scope="module")
def segmenter(pytestconfig):
    """UperNet on ConvNeXt-atto with random weights and windows of 64 pixels."""
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    cfg = Config.fromfile(pytestconfig.rootpath / "configs/segmentation/upernet_convnext_t_160k.py").model
    cfg.backbone.update(arch="atto", init_cfg=None, drop_path_rate=0.0)
    head = dict(num_classes=NUM_CLASSES, norm_cfg=dict(type="BN"))
    cfg.decode_head.update(in_channels=[40, 80, 160, 320], channels=16, **head)
    cfg.auxiliary_head.update(in_channels=160, channels=8, **head)
    cfg.test_cfg.update(crop_size=(64, 64), stride=(42, 42))
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmseg"):
        return MODELS.build(cfg).eval()


def sample_of(size_in, size_out, *, flip=None, padding=(0, 0, 0, 0)):
    from mmseg.structures import SegDataSample

    meta = dict(
        ori_shape=size_out,
        img_shape=size_in,
        pad_shape=size_in,
        flip=flip is not None,
        flip_direction=flip,
        padding_size=padding,
        img_path="image.jpg",
    )
    return SegDataSample(metainfo=meta)


def predict_by_mmseg(segmenter, inputs, sample):
    from mmseg.models import EncoderDecoder

    with torch.no_grad():
        return EncoderDecoder.predict(segmenter, inputs, [sample])[0]


@pytest.mark.parametrize("mode", ["slide", "whole"])
@pytest.mark.parametrize("size_out", [(70, 233), (150, 101), (212, 190)])
def test_logits_and_classes_are_those_of_mmseg(segmenter, mode, size_out, monkeypatch):
    monkeypatch.setitem(segmenter.test_cfg, "mode", mode)
    monkeypatch.setattr("convnext_dense.models.segmentor._CHUNK_BYTES", 4 * NUM_CLASSES * 233 * 7)  # many chunks
    torch.manual_seed(1)
    for size_in in ((150, 101), (64, 64), (40, 90)):
        inputs = torch.randn(1, 3, *size_in)
        expected = predict_by_mmseg(segmenter, inputs, sample_of(size_in, size_out))
        sample = sample_of(size_in, size_out)
        with torch.no_grad():
            chunks = list(next(segmenter.iterate_logits(inputs, [sample])))
            (result,) = segmenter.predict(inputs, [sample])
        assert [top for top, _ in chunks] == list(
            itertools.accumulate((rows.shape[1] for _, rows in chunks[:-1]), initial=0)
        )
        assert len(chunks) > 4
        logits = torch.cat([rows for _, rows in chunks], 1)
        torch.testing.assert_close(logits, expected.seg_logits.data, rtol=0, atol=1e-5)
        # if two classes are equal to the last digit, either may win
        assert (result.pred_sem_seg.data == expected.pred_sem_seg.data).float().mean() > 0.9999
        assert result.pred_sem_seg.data.dtype == torch.int64


@pytest.mark.parametrize("size_out", [(20, 31), (3, 101), (1, 1), (61, 40)])
def test_images_that_were_enlarged_several_times_are_those_of_mmseg(segmenter, size_out, monkeypatch):
    monkeypatch.setitem(segmenter.test_cfg, "mode", "slide")
    torch.manual_seed(1)
    for size_in in ((150, 101), (300, 101)):
        inputs = torch.randn(1, 3, *size_in)
        expected = predict_by_mmseg(segmenter, inputs, sample_of(size_in, size_out))
        with torch.no_grad():
            chunks = list(next(segmenter.iterate_logits(inputs, [sample_of(size_in, size_out)])))
        logits = torch.cat([rows for _, rows in chunks], 1)
        torch.testing.assert_close(logits, expected.seg_logits.data, rtol=0, atol=1e-5)


@pytest.mark.parametrize("flip", ["horizontal", "vertical"])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (3, 5, 2, 7)])
def test_flipped_and_padded_images_are_turned_back_and_cut(segmenter, flip, padding):
    torch.manual_seed(2)
    inputs = torch.randn(1, 3, 90, 101)
    expected = predict_by_mmseg(segmenter, inputs, sample_of((90, 101), (70, 130), flip=flip, padding=padding))
    sample = sample_of((90, 101), (70, 130), flip=flip, padding=padding)
    with torch.no_grad():
        chunks = sorted(next(segmenter.iterate_logits(inputs, [sample])), key=lambda chunk: chunk[0])
    logits = torch.cat([rows for _, rows in chunks], 1)
    # resizing a mirrored image rounds in the other direction in float32
    torch.testing.assert_close(logits, expected.seg_logits.data, rtol=0, atol=1e-5 * float(logits.abs().max()))


def test_images_of_a_batch_get_their_own_sizes(segmenter, monkeypatch):
    monkeypatch.setitem(segmenter.test_cfg, "mode", "whole")
    torch.manual_seed(3)
    inputs = torch.randn(2, 3, 64, 64)
    sizes = [(64, 64), (100, 40)]
    with torch.no_grad():
        results = segmenter.predict(inputs, [sample_of((64, 64), size) for size in sizes])
    for index, (result, size) in enumerate(zip(results, sizes, strict=True)):
        expected = predict_by_mmseg(segmenter, inputs[index : index + 1], sample_of((64, 64), size))
        assert result.pred_sem_seg.shape == size
        assert (result.pred_sem_seg.data == expected.pred_sem_seg.data).float().mean() > 0.999


def test_augmented_test_averages_probabilities_as_mmseg_does(segmenter, monkeypatch):
    from mmseg.models import SegTTAModel

    from convnext_dense.models.segmentor import TiledTTAModel

    monkeypatch.setitem(segmenter.test_cfg, "mode", "whole")
    torch.manual_seed(4)
    image = torch.randint(0, 256, (3, 60, 80), dtype=torch.uint8)
    copies, ours, theirs = [], [], []
    for size, flip in itertools.product([(40, 54), (60, 80), (90, 120)], [None, "horizontal"]):
        copy = torch.nn.functional.interpolate(image[None].float(), size)[0].to(torch.uint8)
        copies.append([copy.flip(-1) if flip else copy])
        for samples in (ours, theirs):
            sample = sample_of(size, (60, 80), flip=flip)
            sample.gt_sem_seg = PixelData(data=torch.zeros(1, 60, 80, dtype=torch.uint8))
            samples.append([sample])
    with torch.no_grad():
        (result,) = TiledTTAModel(segmenter).test_step(dict(inputs=[list(c) for c in copies], data_samples=ours))
        predictions = []
        for inputs, samples in zip(copies, theirs, strict=True):
            batch = segmenter.data_preprocessor(dict(inputs=list(inputs), data_samples=samples), False)
            predictions.append(predict_by_mmseg(segmenter, batch["inputs"], batch["data_samples"][0]))
        (expected,) = SegTTAModel(segmenter).merge_preds([predictions])
    assert result.pred_sem_seg.shape == (60, 80)
    assert (result.pred_sem_seg.data[0] == expected.pred_sem_seg.data).float().mean() > 0.999
    assert "gt_sem_seg" in result
    single = predict_by_mmseg(segmenter, batch["inputs"], theirs[-1][0]).pred_sem_seg.data[0]
    assert (result.pred_sem_seg.data[0] != single).any()  # the average is not just the last copy


def peak_memory():
    """Bytes of memory of this process at most, since ``forget_peak_memory``."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def forget_peak_memory():
    libc = ctypes.CDLL(None)
    libc.mallopt(-3, 2**20)  # M_MMAP_THRESHOLD: tensors go back to the system when freed, whatever was freed before
    libc.malloc_trim(0)  # what was freed before is not taken again unseen
    Path("/proc/self/clear_refs").write_text("5")


@pytest.mark.own_process
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read as Linux has them")
def test_a_large_image_needs_two_rows_of_windows():
    """2 x 4 bytes x 16 classes x 512 x 2048 = 134 MB; all logits take 403 MB, and mmseg holds them three times."""
    from mmengine.config import ConfigDict
    from mmseg.structures import SegDataSample

    from convnext_dense.models.segmentor import TiledEncoderDecoder

    class Numbers(TiledEncoderDecoder):
        """The image times the numbers of the classes: no network, so that only logits need memory."""

        def __init__(self):
            torch.nn.Module.__init__(self)
            self.out_channels, self.align_corners = 16, False
            self.test_cfg = ConfigDict(mode="slide", crop_size=(512, 512), stride=(341, 341))

        def encode_decode(self, window, metas):
            return window[:, :1] * torch.arange(1.0, 17.0)[None, :, None, None]

    height, width = 3072, 2048
    image = torch.linspace(-1, 1, height)[:, None].expand(1, 3, height, width)
    sample = SegDataSample(metainfo=dict(ori_shape=(600, width)))
    Numbers().predict(image[:, :, :600], [sample])  # pages of libraries come into memory when first used
    forget_peak_memory()
    before = peak_memory()
    (result,) = Numbers().predict(image, [SegDataSample(metainfo=dict(ori_shape=(height, width)))])
    labels = result.pred_sem_seg.data[0]
    needed = peak_memory() - before - 2 * 8 * labels.numel()  # in pieces, and joined
    assert (labels[: height // 2] == 0).all()  # the sign of the row decides
    assert (labels[height // 2 :] == 15).all()
    pieces = 12 * 2**24  # each of 16 MiB at most
    assert needed < 2 * 4 * 16 * 512 * width + pieces, f"{needed / 2**20:.0f} MiB"


def test_a_batch_in_which_every_pixel_is_ignored_gives_a_finite_loss(segmenter):
    inputs = torch.randn(2, 3, 64, 64)
    samples = []
    for _ in range(2):
        sample = sample_of((64, 64), (64, 64))
        sample.gt_sem_seg = PixelData(data=torch.full((1, 64, 64), 255, dtype=torch.int64))
        samples.append(sample)
    segmenter.train()
    try:
        losses = segmenter(inputs, samples, mode="loss")
        total = sum(value for name, value in losses.items() if "loss" in name)
        total.backward()
    finally:
        segmenter.eval()
    assert torch.isfinite(total)
    assert all(torch.isfinite(value).all() for value in losses.values())
    assert all(
        torch.isfinite(parameter.grad).all() for parameter in segmenter.parameters() if parameter.grad is not None
    )
    segmenter.zero_grad()


def test_one_class_is_told_by_its_threshold():
    from convnext_dense.models.segmentor import TiledEncoderDecoder

    class Binary(TiledEncoderDecoder):
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.out_channels = 1
            self.decode_head = type("Head", (), {"threshold": 0.3})()

    logits = torch.tensor([[[-2.0, -0.5, 1.0]]])  # probabilities .12, .38, .73
    assert Binary()._to_classes(logits).tolist() == [[0, 1, 1]]
