"""Objects of huge pictures: each once and whole, wherever the tiles cut them."""

import numpy as np
import pytest

from convnext_dense.data.run_lengths import compress
from convnext_dense.inference import Detections, Tiles
from convnext_dense.inference.tiles import find_in_tiles


def find_values(parts):
    """A detector of areas of one grey value: a box, a mask, and a score that falls with the part that is seen."""
    results = []
    for part in parts:
        boxes, scores, labels, rles = [], [], [], []
        for value in np.unique(part[part > 0]):
            mask = part == value
            ys, xs = np.nonzero(mask)
            boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
            scores.append(min(0.5 + mask.sum() / 1e4, 1.0))
            labels.append(int(value) % 2)
            rles.append(compress(mask))
        results.append(
            Detections(
                np.array(boxes, np.float32).reshape(-1, 4),
                np.array(scores, np.float32),
                np.array(labels, int),
                ("even", "odd"),
                part.shape[:2],
                rles=tuple(rles),
            )
        )
    return results


def picture(*boxes, shape=(300, 400)):
    pixels = np.zeros(shape, np.uint8)
    for value, (left, top, right, bottom) in enumerate(boxes, start=1):
        pixels[top:bottom, left:right] = value
    return pixels


def found_boxes(pixels, tiles, **options):
    result = find_in_tiles(find_values, pixels, tiles, **options)
    for number, label in enumerate(result.labels):
        box = result.boxes[number].astype(int)
        value = pixels[box[1], box[0]]
        assert value % 2 == label
        np.testing.assert_array_equal(result.masks[number], pixels == value)
    return sorted(tuple(box) for box in result.boxes.astype(int).tolist())


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(
    "box",
    [
        (10, 10, 30, 30),  # in one tile
        (80, 80, 100, 100),  # in the overlap of four
        (70, 40, 110, 60),  # cut by the edge of two, whole in none: larger than the overlap
        (5, 140, 395, 160),  # through all tiles of a row
        (230, 40, 390, 60),  # from inside to near the right edge
        (60, 5, 90, 295),  # and of a column
        (0, 0, 400, 300),  # everything
        (380, 280, 400, 300),  # in the last corner
    ],
)
def test_object_is_found_once_and_whole(box, batch_size):
    assert found_boxes(picture(box), Tiles(100, 0.25), batch_size=batch_size) == [box]


def test_neighbours_stay_apart():
    boxes = [(20 * column, 20 * row, 20 * column + 19, 20 * row + 19) for row in range(12) for column in range(15)]
    assert found_boxes(picture(*boxes), Tiles(100, 0.25)) == sorted(boxes)


def test_small_picture_is_given_as_it_is():
    pixels = picture((10, 10, 30, 30), shape=(90, 100))
    seen = []
    find_in_tiles(lambda parts: seen.extend(parts) or find_values(parts), pixels, Tiles(100))
    assert len(seen) == 1
    assert seen[0] is pixels


def test_windows_cover_every_pixel_and_end_with_the_picture():
    for height, width, size, overlap in ((300, 400, 100, 0.25), (101, 99, 100, 0.0), (257, 640, 64, 0.9), (5, 7, 1, 0)):
        counts = np.zeros((height, width), int)
        for window in Tiles(size, overlap).windows(height, width):
            counts[window.top : window.bottom, window.left : window.right] += 1
            assert window.right - window.left == min(size, width)
            assert window.bottom - window.top == min(size, height)
        assert counts.min() >= 1


def test_nothing_is_found_in_an_empty_picture():
    result = find_in_tiles(find_values, picture(), Tiles(100))
    assert result.boxes.shape == (0, 4)
    assert result.masks.shape == (0, 300, 400)


@pytest.mark.parametrize(
    ("size", "overlap", "text"), [(0, 0.2, "1 or more"), (10, 1.0, "share of 1"), (9, -1, "share")]
)
def test_wrong_tiles_are_named(size, overlap, text):
    with pytest.raises(ValueError, match=text):
        Tiles(size, overlap)


def test_the_most_certain_object_is_first_and_pieces_have_the_best_score():
    result = find_in_tiles(find_values, picture((5, 140, 395, 160), (10, 10, 20, 20), (200, 20, 260, 80)), Tiles(100))
    assert (np.diff(result.scores) <= 0).all()
    joined = result.scores[np.argmax(result.boxes[:, 2] - result.boxes[:, 0])]
    assert joined == pytest.approx(0.5 + 100 * 20 / 1e4)  # of the largest piece, as wide as a tile


def test_objects_of_two_classes_at_one_place_both_stay():
    def rider_and_horse(parts):
        found = []
        for part in parts:
            ys, xs = np.nonzero(part)
            box = [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]] * 2 if len(xs) else []
            labels = np.arange(len(box))
            found.append(
                Detections(np.array(box, np.float32).reshape(-1, 4), 0.9 - 0.1 * labels, labels, ("a", "b"), part.shape)
            )
        return found

    result = find_in_tiles(rider_and_horse, picture((80, 80, 100, 100)), Tiles(100))
    assert result.labels.tolist() == [0, 1]
