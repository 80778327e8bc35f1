"""Training, the check of the data, testing and infer read every kind of image file to the same pixels.

Expected pixels are those that were put into the file, turned or scaled by hand.
"""

import io
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from PIL import Image

from convnext_dense.data.checks.inspection import Inspection
from convnext_dense.data.corrupt_images import CorruptImages
from convnext_dense.data.image_folder import ImageFolder
from convnext_dense.data.image_reader import ImageReader
from convnext_dense.data.opened_images import inspect_image, open_image
from convnext_dense.data.upright_images import opencv_turns, read_bgr
from convnext_dense.errors import UserError
from convnext_dense.inference.predictor import _classifier_input, _read_image

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (8, 12, 3), dtype=np.uint8)
GREY = RGB[..., 0]
DEEP = np.array([[0, 255, 256, 32768], [65280, 65535, 1000, 513]], np.uint16)
DEEP_IN_8_BITS = np.array([[0, 0, 1, 128], [255, 255, 3, 2]], np.uint8)  # a 256th, rounded down
PALETTE = np.array([[10, 20, 30], [200, 100, 50], [0, 255, 7]], np.uint8)
INDICES = RNG.integers(0, 3, (8, 12), dtype=np.uint8)
CMYK = RNG.choice(np.array([0, 255], np.uint8), (8, 12, 4))


def three(grey):
    return np.dstack([grey] * 3)


def palette_image():
    image = Image.fromarray(INDICES, mode="P")
    image.putpalette(PALETTE.ravel().tolist())
    return image


def save(image, path, **options):
    image.save(path, **options)
    return path


# Name -> (what is saved, options, expected RGB).
KINDS = {
    "rgb.png": (Image.fromarray(RGB), {}, RGB),
    "rgb.bmp": (Image.fromarray(RGB), {}, RGB),
    "rgb.webp": (Image.fromarray(RGB), dict(lossless=True), RGB),
    "rgb.tif": (Image.fromarray(RGB), dict(compression="tiff_lzw"), RGB),
    "grey.png": (Image.fromarray(GREY), {}, three(GREY)),
    "bits.png": (Image.fromarray(GREY > 100), {}, three(np.where(GREY > 100, 255, 0).astype(np.uint8))),
    "alpha.png": (Image.fromarray(np.dstack([RGB, GREY])), {}, RGB),
    "grey_alpha.png": (Image.fromarray(np.dstack([GREY, 255 - GREY]), mode="LA"), {}, three(GREY)),
    "palette.png": (palette_image(), {}, PALETTE[INDICES]),
    "palette.gif": (palette_image(), {}, PALETTE[INDICES]),
    "see_through_palette.png": (palette_image(), dict(transparency=1), PALETTE[INDICES]),
    "cmyk.tif": (Image.fromarray(CMYK, mode="CMYK"), {}, ((255 - CMYK[..., :3]) * (CMYK[..., 3:] < 128))),
    "deep.png": (Image.fromarray(DEEP), {}, three(DEEP_IN_8_BITS)),
    "deep.tif": (Image.fromarray(DEEP), {}, three(DEEP_IN_8_BITS)),
    "pages.tif": (Image.fromarray(RGB), dict(save_all=True, append_images=[Image.fromarray(255 - RGB)]), RGB),
    "moving.webp": (
        Image.fromarray(RGB),
        dict(save_all=True, append_images=[Image.fromarray(255 - RGB)], lossless=True),
        RGB,
    ),
}

# EXIF orientation -> how the pixels in the file become upright.
TURNS = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda pixels: np.rot90(pixels),
}


def readers(path):
    """Return the RGB pixels that every path through the package reads from a file."""
    yield "classifier's training", np.asarray(CorruptImages(1, 0.0).decode(path.read_bytes(), str(path)))
    yield "classifier's inference", _read_image(path)[..., ::-1]
    yield "classifier's check", read_bgr(path)[..., ::-1]
    for scope in ("mmdet", "mmseg"):
        init_default_scope(scope)
        yield (
            f"{scope}'s pipeline",
            Compose([dict(type="LoadImageFromFile")])(dict(img_path=str(path)))["img"][..., ::-1],
        )
        yield f"{scope}'s check", ImageReader(dict(type="LoadImageFromFile"))(path)[..., ::-1]


def needs_opencv(name, what):
    old = tuple(map(int, cv2.__version__.split(".")[:2])) < (4, 12)  # the newest that takes numpy 1 is 4.11
    return pytest.param(name, marks=pytest.mark.skipif(old, reason=f"{what} needs an OpenCV after 4.11"))


@pytest.mark.parametrize("name", [needs_opencv(k, "a GIF") if k == "palette.gif" else k for k in KINDS])
def test_file_is_read_to_the_pixels_that_are_meant(tmp_path, name):
    image, options, expected = KINDS[name]
    path = save(image, tmp_path / name, **options)
    for reader, pixels in readers(path):
        np.testing.assert_array_equal(pixels, expected, err_msg=f"{reader}, {name}")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_what_opencv_does_not_turn_is_refused(tmp_path, suffix, monkeypatch):
    """OpenCV 4.11 leaves WebP files as they are stored."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(Image.fromarray(RGB), tmp_path / f"a.{suffix}", exif=exif)
    reader = ImageReader(dict(type="mmcv.LoadImageFromFile"))
    turned = reader(path).shape[:2] == RGB.shape[1::-1]
    upright = save(Image.fromarray(RGB), tmp_path / f"b.{suffix}")
    if turned:
        assert reader.open(path)[:2] == RGB.shape[1::-1]
        decode = cv2.imdecode
        monkeypatch.setattr(cv2, "imdecode", lambda data, flags: decode(data, flags | cv2.IMREAD_IGNORE_ORIENTATION))
    opencv_turns.cache_clear()
    try:
        with pytest.raises(UserError, match=rf"a\.{suffix} is turned by its EXIF \(orientation 6\), which OpenCV "):
            reader.open(path)
        assert reader.open(upright)[:2] == RGB.shape[:2]
        as_stored = ImageReader(dict(type="mmcv.LoadImageFromFile", color_type="color_ignore_orientation"))
        as_stored.open(path)  # is meant to be read as it is stored
    finally:
        opencv_turns.cache_clear()


@pytest.mark.parametrize("suffix", ["png", needs_opencv("webp", "EXIF of WebP"), "tif"])
@pytest.mark.parametrize("number", TURNS)
def test_image_is_turned_as_its_exif_says(tmp_path, number, suffix):
    exif = Image.Exif()
    exif[0x0112] = number
    options = dict(lossless=True) if suffix == "webp" else {}
    path = save(Image.fromarray(RGB), tmp_path / f"a.{suffix}", exif=exif, **options)
    expected = TURNS[number](RGB)
    for reader, pixels in readers(path):
        np.testing.assert_array_equal(pixels, expected, err_msg=reader)
    assert open_image(path)[:2] == expected.shape[:2]


def test_jpegs_on_their_side_and_in_cmyk_differ_by_rounding_alone(tmp_path):
    """JPEG decoders round differently; one file per task, and no more than 2 of 255 between tasks."""
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth = cv2.resize(RGB, (96, 64), interpolation=cv2.INTER_CUBIC)
    upright = np.rot90(smooth, -1).astype(int)
    for name, image in (("a.jpg", Image.fromarray(smooth)), ("b.jpg", Image.fromarray(smooth).convert("CMYK"))):
        path = save(image, tmp_path / name, exif=exif, quality=100, subsampling=0)
        read = dict(readers(path))
        for pixels in read.values():
            assert np.abs(pixels - upright).max() <= 6, name
            assert np.abs(pixels.astype(int) - next(iter(read.values()))).max() <= 2, name
        np.testing.assert_array_equal(read["classifier's training"], read["classifier's inference"])


def test_broken_exif_does_not_break_the_image(tmp_path):
    path = save(Image.fromarray(RGB), tmp_path / "a.png", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    for reader, pixels in readers(path):
        np.testing.assert_array_equal(pixels, RGB, err_msg=reader)


@pytest.mark.parametrize(("values", "mode"), [(np.float32(DEEP) / 65535, "F"), (DEEP.astype(np.int32), "I")])
def test_32_bits_are_refused_by_every_reader_of_8_bits(tmp_path, values, mode):
    """Nothing says which value is white; cutting at 255, as Pillow does, gives black or white images."""
    path = save(Image.fromarray(values), tmp_path / "a.tif")
    with pytest.raises(ValueError, match=rf"a\.tif cannot be used: it has 32 bits per pixel \(mode {mode}\)"):
        _read_image(path)
    with pytest.raises(ValueError, match=rf"a\.tif .*32 bits per pixel \(mode {mode}\)"):
        CorruptImages(1, 0.0).decode(path.read_bytes(), str(path))
    init_default_scope("mmdet")
    with pytest.raises(ValueError, match=rf"has 32 bits per pixel \(mode {mode}\).*only with color_type='unchanged'"):
        ImageReader(dict(type="LoadImageFromFile"))(path)
    unchanged = ImageReader(dict(type="LoadImageFromFile", color_type="unchanged"))
    np.testing.assert_array_equal(unchanged(path), values)
    for reader, number in ((None, 1), (ImageReader(dict(type="LoadImageFromFile")), 1), (unchanged, 0)):
        inspection = Inspection()
        inspect_image(path, inspection, reader=reader)
        assert len(inspection.of("error")) == number


@pytest.mark.parametrize(
    ("color_type", "shape", "size", "is_turned"),
    [
        ("color", (12, 8, 3), (12, 8), True),
        ("grayscale", (12, 8), (12, 8), True),
        ("unchanged", (8, 12, 3), (8, 12), False),
        ("color_ignore_orientation", (8, 12, 3), (8, 12), False),
        ("grayscale_ignore_orientation", (8, 12), (8, 12), False),
    ],
)
def test_check_sees_the_size_and_the_orientation_that_the_config_reads(tmp_path, color_type, shape, size, is_turned):
    init_default_scope("mmdet")
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(Image.fromarray(RGB), tmp_path / "a.jpg", exif=exif)
    reader = ImageReader(dict(type="LoadImageFromFile", color_type=color_type))
    assert reader(path).shape == shape
    inspection = Inspection()
    opened = inspect_image(path, inspection, reader=reader)
    assert (opened.height, opened.width) == size
    (found,) = inspection.findings
    assert ("is turned when it is read" in found.example) == is_turned


def test_check_reports_only_what_the_loading_step_loses(tmp_path):
    init_default_scope("mmdet")
    deep = save(Image.fromarray(DEEP), tmp_path / "deep.png")
    alpha = save(Image.fromarray(np.dstack([RGB, GREY])), tmp_path / "alpha.png")
    lost = {}
    for color_type in ("color", "grayscale", "unchanged"):
        inspection = Inspection()
        for path in (deep, alpha):
            inspect_image(path, inspection, reader=ImageReader(dict(type="LoadImageFromFile", color_type=color_type)))
        lost[color_type] = {finding.check for finding in inspection.findings}
    assert lost == dict(
        color={"16-bit images", "images with alpha"}, grayscale={"16-bit images", "images with alpha"}, unchanged=set()
    )


def test_custom_step_reads_files_that_pillow_and_opencv_do_not_know(tmp_path):
    from mmcv.transforms import BaseTransform
    from mmdet.registry import TRANSFORMS

    @TRANSFORMS.register_module(force=True)
    class LoadNumpyImage(BaseTransform):
        def transform(self, results):
            results["img"] = np.load(results["img_path"])
            return results

    init_default_scope("mmdet")
    np.save(tmp_path / "a.npy", np.dstack([RGB, GREY, GREY]))
    inspection = Inspection()
    reader = ImageReader(dict(type="LoadNumpyImage"))
    opened = inspect_image(tmp_path / "a.npy", inspection, reader=reader)
    assert (opened.height, opened.width) == (8, 12)
    assert not inspection.findings
    with pytest.raises(ValueError, match=r"b\.npy does not exist"):
        reader.open(tmp_path / "b.npy")


def test_classifier_is_given_the_same_tensor_in_testing_and_by_infer(tmp_path, pytestconfig):
    from convnext_dense.config.datasets import leaf_datasets
    from convnext_dense.config.reading import read_config

    cfg = read_config(pytestconfig.rootpath / "configs/demo/convnext_atto_small_images.py")
    folder = tmp_path / "val" / "cat"
    folder.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 3
    save(Image.fromarray(RGB), folder / "turned.jpg", exif=exif)
    for name in ("deep.png", "alpha.png", "palette.png"):
        save(KINDS[name][0], folder / name)
    dataset = ImageFolder(tmp_path / "val", next(leaf_datasets(cfg.test_dataloader.dataset)).transform)
    transform = _classifier_input(cfg)
    assert len(dataset) == 4
    for index, (path, _) in enumerate(dataset.samples):
        assert torch.equal(dataset[index]["inputs"], transform(dict(img=_read_image(path)))["inputs"]), path


def test_truncated_image_stays_an_error(tmp_path):
    content = io.BytesIO()
    Image.fromarray(np.repeat(RGB, 9, 0)).save(content, format="png")
    with pytest.raises(ValueError, match="cannot be decoded"):
        CorruptImages(1, 0.0).decode(content.getvalue()[:300], "half.png")


def test_threads_that_open_images_leave_pillows_limit_as_it_was(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    before = Image.MAX_IMAGE_PIXELS
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(open_image, [tmp_path / "a.png"] * 400))
    assert before is not None
    assert before == Image.MAX_IMAGE_PIXELS
