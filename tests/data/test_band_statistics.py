"""Mean and deviation per channel are NumPy's over all pixels, and are measured once per state of the files."""

import numpy as np
import pytest

from convnext_dense.data import band_statistics
from convnext_dense.data.band_files import read_bands
from convnext_dense.data.band_statistics import measure, measure_files
from convnext_dense.errors import UserError


def images(dtype, channels=4, offset=0):
    rng = np.random.default_rng(0)
    sizes = [(7, 9), (30, 20), (1, 1), (16, 64)]
    scale = np.arange(1, channels + 1)
    return [(offset + rng.random((*size, channels)) * 50 * scale).astype(dtype) for size in sizes]


@pytest.mark.parametrize(("dtype", "offset"), [(np.uint8, 0), (np.float32, 0), (np.float32, 60000)])
def test_statistics_are_those_of_numpy_over_all_pixels(dtype, offset):
    given = images(dtype, offset=offset)
    found = measure(given)
    pixels = np.concatenate([image.reshape(-1, 4) for image in given]).astype(np.float64)
    for name, expected in dict(mean=pixels.mean(0), std=pixels.std(0), low=pixels.min(0), high=pixels.max(0)).items():
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-6, err_msg=name)
    assert found.num_images == 4


def write(folder, given):
    files = []
    for number, image in enumerate(given):
        files.append(folder / f"{number}.npy")
        np.save(files[-1], image)
    return files


def test_files_are_measured_again_only_after_a_change(tmp_path):
    files = write(tmp_path, images(np.float32))
    read = []

    def count(path):
        read.append(path)
        return read_bands(path, 4)

    first = measure_files(files, count, tmp_path / "kept", channels=4)
    assert measure_files(files, count, tmp_path / "kept", channels=4) == first
    assert read == files
    np.save(files[0], images(np.float32)[0] + 1)
    assert measure_files(files, count, tmp_path / "kept", channels=4).mean != first.mean
    assert len(read) == 8
    for kept in (tmp_path / "kept").iterdir():
        kept.write_text("{")
    measure_files(files, count, tmp_path / "kept", channels=4)
    assert len(read) == 12


def test_folder_that_cannot_be_written_costs_only_time(tmp_path):
    files = write(tmp_path, images(np.float32))
    (tmp_path / "file").touch()
    found = measure_files(files, read_bands, tmp_path / "file", channels=4)
    assert found == measure_files(files, read_bands, tmp_path / "kept", channels=4)


def test_many_images_are_sampled_evenly(tmp_path, monkeypatch):
    monkeypatch.setattr(band_statistics, "MAX_IMAGES", 3)
    files = write(tmp_path, [np.full((2, 2, 1), value, np.uint8) for value in range(9)])
    assert measure_files(files, read_bands, tmp_path / "kept", channels=1).mean == [3]  # of 0, 3 and 6


def test_broken_and_missing_images_are_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.npy does not exist"):
        measure_files([tmp_path / "gone.npy"], read_bands, tmp_path / "kept", channels=4)
    with pytest.raises(UserError, match="There is no training image"):
        measure_files([], read_bands, tmp_path / "kept", channels=4)
