"""Images of any number of channels, of every container and type, are read to the values that were put into them."""

import io
import pickle
import struct
import sys

import cv2
import numpy as np
import pytest
import tifffile
from mmengine.registry import TRANSFORMS
from PIL import Image

import convnext_dense.data.band_files as band_files
from convnext_dense.data.band_files import read_bands, read_header
from convnext_dense.data.image_reader import ImageReader
from convnext_dense.data.image_size import read_size
from convnext_dense.errors import UserError

HEIGHT, WIDTH = 17, 19


def values(channels, dtype):
    rng = np.random.default_rng(channels)
    top = dict(uint8=255, uint16=65535, float32=1, float64=1)[np.dtype(dtype).name]
    return (rng.random((HEIGHT, WIDTH, channels)) * top).astype(dtype)


def write_tiff(path, image, planarconfig, **options):
    if 1 in (image.shape[0], image.shape[-1]):
        image, planarconfig = image.squeeze(), None
    tifffile.imwrite(path, image, photometric="minisblack", planarconfig=planarconfig, **options)
    return path


def interleaved(path, image):
    return write_tiff(path.with_suffix(".tif"), image, "contig")


def planar(path, image):
    planes = np.ascontiguousarray(np.moveaxis(image, -1, 0))
    return write_tiff(path.with_suffix(".tif"), planes, "separate")


def pages(path, image):
    with tifffile.TiffWriter(path.with_suffix(".tif")) as file:
        for channel in np.moveaxis(image, -1, 0):
            file.write(np.ascontiguousarray(channel), photometric="minisblack", contiguous=False)
    return path.with_suffix(".tif")


def plain(path, image):
    """tifffile takes (H, W, C) for H pages of W x C unless it is told otherwise, and so do many files."""
    tifffile.imwrite(path.with_suffix(".tif"), image)
    return path.with_suffix(".tif")


def compressed(path, image):
    return write_tiff(path.with_suffix(".tiff"), image, "contig", compression="zlib", tile=(16, 16), bigtiff=True)


def numpy_last(path, image):
    np.save(path.with_suffix(".npy"), image)
    return path.with_suffix(".npy")


def numpy_first(path, image):
    np.save(path.with_suffix(".npy"), np.moveaxis(image, -1, 0))
    return path.with_suffix(".npy")


WRITERS = (interleaved, planar, pages, plain, compressed, numpy_last, numpy_first)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 13])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_every_container_type_and_number_of_channels_is_read(tmp_path, write, dtype, channels):
    image = values(channels, dtype)
    path = write(tmp_path / "a", image)
    for wanted in (channels, None):
        read = read_bands(path, wanted)
        assert read.dtype == (np.uint8 if dtype == np.uint8 else np.float32)
        assert read.flags.c_contiguous
        np.testing.assert_array_equal(read, image.astype(np.float32))
        assert read_header(path, wanted) == (HEIGHT, WIDTH, channels, np.dtype(dtype))
    if write is not plain:
        assert read_size(path, are_turned=False) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_of_a_png_are_red_green_blue_alpha_as_in_a_tiff(tmp_path, dtype, channels):
    image = values(channels, dtype)
    order = [0] if channels == 1 else [2, 1, 0, 3][:channels]  # OpenCV writes blue first
    assert cv2.imwrite(str(tmp_path / "a.png"), image[..., order])
    np.testing.assert_array_equal(read_bands(tmp_path / "a.png", channels), image.astype(np.float32))
    if dtype == np.uint8 and channels > 1:
        np.testing.assert_array_equal(read_bands(tmp_path / "a.png"), np.asarray(Image.open(tmp_path / "a.png")))


def test_overviews_of_a_tiff_are_no_channels(tmp_path):
    image = values(4, np.uint16)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        options = dict(photometric="minisblack", planarconfig="contig")
        file.write(image, subifds=1, **options)
        file.write(image[::2, ::2], subfiletype=1, **options)
    np.testing.assert_array_equal(read_bands(tmp_path / "a.tif", 4), image)


@pytest.mark.parametrize(
    "write", [interleaved, planar, pages, numpy_last, numpy_first], ids=lambda write: write.__name__
)
def test_other_number_of_channels_is_refused_by_name_and_numbers(tmp_path, write):
    path = write(tmp_path / "a", values(5, np.uint16))
    with pytest.raises(UserError, match=rf"{path.name} has 5 channels, but 4 are wanted"):
        read_bands(path, 4)


@pytest.mark.parametrize("write", [interleaved, numpy_last], ids=lambda write: write.__name__)
@pytest.mark.parametrize(("value", "dtype"), [(np.nan, np.float32), (np.inf, np.float32), (1e300, np.float64)])
def test_value_that_is_not_finite_is_refused_with_its_place(tmp_path, write, value, dtype):
    image = values(4, dtype)
    image[2, 3, 1] = image[5, 0, 0] = value
    path = write(tmp_path / "a", image)
    with pytest.raises(
        UserError, match=rf"{path.name} has 2 values .* \(NaN, .*\), the first in row 3, column 4 of band 2: fill them"
    ):
        read_bands(path, 4)


@pytest.mark.parametrize("write", [interleaved, planar, compressed, numpy_last], ids=lambda write: write.__name__)
@pytest.mark.parametrize("share", [0.01, 0.3, 0.95])
def test_truncated_file_is_one_sentence(tmp_path, write, share):
    path = write(tmp_path / "a", values(4, np.uint16))
    content = path.read_bytes()
    path.write_bytes(content[: max(int(share * len(content)), 1)])
    with pytest.raises(UserError, match=rf"Image .*{path.name} cannot be decoded: it is (truncated|not an )"):
        read_bands(path, 4)


def test_missing_and_empty_files_and_folders_are_named(tmp_path):
    (tmp_path / "a.tif").touch()
    (tmp_path / "b.tif").mkdir()
    for name, text in (("a.tif", "is empty"), ("b.tif", "is a folder"), ("c.npy", "does not exist")):
        for read in (read_bands, read_header):
            with pytest.raises(UserError, match=f"{name} {text}"):
                read(tmp_path / name)


class Unpickled:
    """Leaves a trace when it is unpickled."""

    def __reduce__(self):
        return exec, ("raise RuntimeError('unpickled')",)


def test_objects_are_never_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[Unpickled()]], object), allow_pickle=True)
    with pytest.raises(UserError, match=r"a\.npy holds Python objects, which are never loaded"):
        read_bands(tmp_path / "a.npy")
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Unpickled()))
    np.savez(tmp_path / "c.npz", image=values(4, np.uint8))
    (tmp_path / "c.npz").rename(tmp_path / "c.npy")
    for name in ("b.npy", "c.npy"):
        with pytest.raises(UserError, match=rf"{name} cannot be decoded: it is not an array in NumPy's format"):
            read_bands(tmp_path / name)


def test_numpy_header_that_claims_more_than_the_file_has_allocates_nothing(tmp_path):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, dict(descr="<f8", fortran_order=False, shape=(9000, 9000, 4)))
    (tmp_path / "a.npy").write_bytes(stream.getvalue() + bytes(100))
    with pytest.raises(UserError, match=r"a\.npy cannot be decoded: it is truncated"):
        read_bands(tmp_path / "a.npy")


def test_more_pixels_than_the_limit_are_not_decoded(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENCV_IO_MAX_IMAGE_PIXELS", "100")
    for write in (interleaved, pages, numpy_last):
        path = write(tmp_path / "a", values(4, np.uint8))
        for read in (read_bands, read_header):
            with pytest.raises(UserError, match=rf"{path.name} claims 19x17 pixels, more than 100"):
                read(path)


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.zeros((4, 5, 2), np.complex64), "has values of the type complex64"),
        (np.zeros((4, 5), "U3"), "has values of the type <U3"),
        (np.zeros((2, 3, 4, 5)), r"has the shape \(2, 3, 4, 5\): it must be"),
        (np.zeros(7), r"has the shape \(7,\): it must be"),
    ],
)
def test_array_that_is_no_image_is_refused(tmp_path, array, text):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UserError, match=rf"a\.npy {text}"):
        read_bands(tmp_path / "a.npy")


def test_whole_numbers_and_booleans_become_floats(tmp_path):
    for array in (np.array([[-3, 70000]], np.int32), np.array([[True, False]])):
        np.save(tmp_path / "a.npy", array)
        read = read_bands(tmp_path / "a.npy", 1)
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read[..., 0], array)


def test_loading_step_sets_what_mmcvs_does(tmp_path):
    path = interleaved(tmp_path / "a", values(4, np.uint16))
    step = TRANSFORMS.build(dict(type="convnext_dense.LoadBands", channels=4, shown=(3, 2, 1)))
    result = step(dict(img_path=str(path), img_id=7))
    assert set(result) == {"img_path", "img_id", "img", "img_shape", "ori_shape"}
    assert result["img_shape"] == result["ori_shape"] == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(result["img"], values(4, np.uint16))
    assert repr(step) == "LoadBands(channels=4, shown=(3, 2, 1))"
    remote = TRANSFORMS.build(dict(type="convnext_dense.LoadBands", channels=4, backend_args=dict(backend="local")))
    np.testing.assert_array_equal(remote(dict(img_path=str(path)))["img"], values(4, np.uint16))


def test_missing_packages_are_named_with_their_extra(tmp_path, monkeypatch):
    path = interleaved(tmp_path / "a", values(4, np.uint16))
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(
        UserError, match=r"a\.tif is a TIFF, which .* tifffile reads: pip install 'convnext-dense\[data\]'"
    ):
        read_bands(path)
    monkeypatch.undo()

    def decode(*_, **__):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", decode)
    with pytest.raises(UserError, match=r"a\.tif has a compression that needs the package imagecodecs .*LZW"):
        read_bands(path)


def test_tifffile_is_imported_only_for_a_tiff():
    assert not hasattr(band_files, "tifffile")
    assert band_files.TIFF_SUFFIXES == (".tif", ".tiff")


def rgb_reader(color_type="color"):
    return ImageReader(dict(type="LoadImageFromFile", color_type=color_type))


@pytest.mark.parametrize(
    ("write", "dtype", "channels", "text"),
    [
        (interleaved, np.uint16, 4, "4 channels of 16 bits"),
        (interleaved, np.uint8, 5, "5 channels of 8 bits"),
        (interleaved, np.uint8, 4, "4 channels of 8 bits"),
        (plain, np.uint8, 4, "4 channels of 8 bits"),  # tifffile declares the fourth as alpha
        (plain, np.uint8, 2, "2 channels of 8 bits"),  # pages of W x 2
        (planar, np.uint16, 13, "13 channels of 16 bits"),
        (pages, np.uint8, 5, "5 channels of 8 bits"),
        (compressed, np.float32, 3, "3 channels of 32 bits"),
        (numpy_last, np.uint8, 3, "3 channels of 8 bits"),
        (numpy_first, np.float32, 5, "5 channels of 32 bits"),
    ],
)
def test_reading_as_rgb_refuses_channels_that_it_would_drop(tmp_path, write, dtype, channels, text):
    path = write(tmp_path / "a", values(channels, dtype))
    message = rf"{path.name} has {text}, and LoadImageFromFile reads 3 of 8 bits: train with --channels {channels}\."
    with pytest.raises(UserError, match=message):
        rgb_reader().open(path)


def test_reading_as_rgb_goes_on_with_pictures(tmp_path):
    rgb = values(3, np.uint8)
    see_through = np.dstack([rgb, np.where(rgb[..., 0] > 99, 255, 0).astype(np.uint8)])
    pictures = {
        "rgb.tif": Image.fromarray(rgb),
        "grey.tif": Image.fromarray(rgb[..., 0]),
        "alpha.tif": Image.fromarray(see_through),
        "alpha.png": Image.fromarray(np.dstack([rgb, rgb[..., 0]])),
        "inks.tif": Image.fromarray(np.dstack([rgb, rgb[..., 0]]), mode="CMYK"),
        "deep.png": Image.fromarray(values(1, np.uint16)[..., 0]),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / name)
        assert rgb_reader().open(tmp_path / name)[:2] == (HEIGHT, WIDTH)
    assert rgb_reader("unchanged").open(interleaved(tmp_path / "b", values(4, np.uint16)))[:2] == (HEIGHT, WIDTH)


def test_tiff_without_any_directory_is_left_to_its_reader(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<I", 9999))
    with pytest.raises(UserError, match=r"a\.tif cannot be decoded"):
        rgb_reader().open(tmp_path / "a.tif")
