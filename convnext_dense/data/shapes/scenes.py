"""Generated scenes of flat shapes with exact ground truth, the source of the demo data sets.

Scenes are independent of file formats: ``coco.py`` writes detection data, and any other writer that starts from
``split_scene`` gets the same pictures. Every choice comes from a NumPy ``Generator``, so a seed gives the same scene
wherever the versions of NumPy and OpenCV are the same.

Letters: H, W are the height and width of an image in pixels, V is a number of vertices.
"""

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from convnext_dense.errors import UserError

CLASS_NAMES: tuple[str, ...] = ("circle", "square", "triangle", "star", "cross", "crescent")
SPLITS: tuple[str, ...] = ("train", "val")

MIN_SIDE = 64  # below this, small shapes have too few pixels to be told apart
EMPTY_RATE = 0.05
CROWD_RATE = 0.07
SMALL_RATE = 0.12
MIN_VISIBLE_RATE = 0.35  # shapes that are less visible are left out: people could not name them either
_NUM_OBJECTS_RATES = (0.2, 0.25, 0.25, 0.18, 0.12)  # of 1, 2, ... 5 shapes in a picture
_TILT = np.deg2rad(8)  # standard deviation
_HUE_DEVIATION = 0.25  # in steps between classes: 1 in 22 of a class is beyond the midpoint to a neighbour
_SUPERSAMPLING = 4
_SUBPIXEL_BITS = 4  # fractional bits of the coordinates that cv2.fillPoly reads


@dataclass(frozen=True, eq=False)
class SceneObject:
    """One annotated object.

    Attributes:
        class_index: Position in ``CLASS_NAMES``.
        mask: (H, W) bool, the visible pixels of the object, without those that a later object hides.
        is_crowd: Whether the object is a heap of small ones of its class that nobody would outline one by one.
    """

    class_index: int
    mask: np.ndarray
    is_crowd: bool = False

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The smallest (x, y, width, height) that holds every pixel of the mask, in pixels."""
        columns = np.flatnonzero(self.mask.any(axis=0))
        rows = np.flatnonzero(self.mask.any(axis=1))
        x, y = int(columns[0]), int(rows[0])
        return x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture and its objects.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        objects: From bottom to top, with disjoint masks. May be empty.
    """

    image: np.ndarray
    objects: list[SceneObject]


@dataclass(frozen=True, eq=False)
class _Layer:
    """Shapes that are annotated together: a single one, or all of a crowd.

    Attributes:
        coverages: (H, W) float32 in [0, 1] for each shape, the share of each pixel that it covers.
        mask: (H, W) bool, the pixels that the shapes would have if nothing lay on top.
    """

    class_index: int
    is_crowd: bool
    coverages: list[np.ndarray]
    mask: np.ndarray


def split_scene(
    split: str, index: int, *, seed: int, image_size: tuple[int, int], has_class_colours: bool = False
) -> Scene:
    """Generate picture ``index`` of a split, which depends only on the arguments, not on the pictures before it.

    Args:
        split: One of ``SPLITS``; the splits of one seed have nothing in common.
        index: Number of the picture, from 0.
        seed: 0 or more.
        image_size: (height, width) of the largest pictures. A third of them are 3/4 as high, a third 3/4 as wide, so
            that training meets padding and mixed aspect ratios, as with photographs.
        has_class_colours: See ``make_scene``.

    Raises:
        UserError: The split is unknown, the index or seed is negative, or the image is too small.
    """
    if split not in SPLITS:
        raise UserError(f"split={split!r} is unknown: it must be one of {SPLITS}")
    if index < 0 or seed < 0:
        raise UserError(f"index={index} and seed={seed} must both be 0 or more")
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), index)))
    height, width = image_size
    sizes = ((height, width), (height * 3 // 4, width), (height, width * 3 // 4))
    return make_scene(rng, sizes[rng.integers(len(sizes))], has_class_colours=has_class_colours)


def make_scene(rng: np.random.Generator, image_size: tuple[int, int], *, has_class_colours: bool = False) -> Scene:
    """Draw one scene: a textured background, up to five shapes that may hide each other, and at times a crowd.

    Args:
        rng: Source of every choice.
        image_size: (height, width) of the picture; each at least 48 (3/4 of ``MIN_SIDE``).
        has_class_colours: Whether shapes have hues that are typical of their class, as sky and grass have, on dull
            backgrounds; neighbouring hues overlap. Otherwise colours tell nothing about the class.

    Raises:
        UserError: The image is too small.
    """
    if min(image_size) < MIN_SIDE * 3 // 4:
        raise UserError(f"image_size={image_size} is too small: height and width must be {MIN_SIDE * 3 // 4} or more")
    layers = _keep_visible(_place_layers(rng, image_size))
    background = _pick_dull_colour(rng) if has_class_colours else _pick_colour(rng, [])
    used_colours = [background]
    canvas = _texture(rng, image_size, background)
    for layer, _ in layers:
        colour = _pick_class_colour(rng, layer.class_index) if has_class_colours else _pick_colour(rng, used_colours)
        used_colours.append(colour)
        for coverage in layer.coverages:
            # Neighbours in a crowd would merge into one blob if all had exactly the same colour.
            shade = colour + rng.uniform(-30, 30) if layer.is_crowd else colour
            canvas += coverage[..., None] * (_texture(rng, image_size, shade) - canvas)
    objects = [SceneObject(layer.class_index, visible, layer.is_crowd) for layer, visible in layers]
    return Scene(_photograph(rng, canvas), objects)


def _place_layers(rng: np.random.Generator, image_size: tuple[int, int]) -> list[_Layer]:
    if rng.random() < EMPTY_RATE:
        return []
    num_objects = 1 + rng.choice(len(_NUM_OBJECTS_RATES), p=_NUM_OBJECTS_RATES)
    layers = [_place_shape(rng, image_size) for _ in range(num_objects)]
    if rng.random() < CROWD_RATE:
        # At the bottom and with few others, so that the shapes above keep their outlines and the crowd stays visible.
        layers = [_place_crowd(rng, image_size), *layers[:2]]
    return layers


def _place_shape(rng: np.random.Generator, image_size: tuple[int, int]) -> _Layer:
    height, width = image_size
    class_index = int(rng.integers(len(CLASS_NAMES)))
    smallest, largest = (0.07, 0.17) if rng.random() < SMALL_RATE else (0.17, 0.45)
    side = min(image_size) * np.exp(rng.uniform(np.log(smallest), np.log(largest)))
    centre = rng.uniform(0.12, 0.88, size=2) * (width, height)  # so that the frame never cuts off more than about half
    coverage = _coverage(_outline(rng, class_index, side=side, centre=centre), image_size)
    return _Layer(class_index, False, [coverage], coverage >= 0.5)


def _place_crowd(rng: np.random.Generator, image_size: tuple[int, int]) -> _Layer:
    height, width = image_size
    class_index = int(rng.integers(len(CLASS_NAMES)))
    centre = rng.uniform(0.3, 0.7, size=2) * (width, height)
    side = rng.uniform(0.05, 0.07) * min(image_size)
    num_shapes = int(rng.integers(14, 27))
    # A disc with about the area of all shapes together: most shapes touch or overlap a neighbour.
    radius = side * np.sqrt(1.1 * num_shapes / np.pi)
    coverages = []
    for _ in range(num_shapes):
        angle, distance = rng.uniform(0, 2 * np.pi), radius * np.sqrt(rng.random())
        position = centre + distance * np.array([np.cos(angle), np.sin(angle)])
        outline = _outline(rng, class_index, side=side * rng.uniform(0.8, 1.2), centre=position)
        coverages.append(_coverage(outline, image_size))
    return _Layer(class_index, True, coverages, np.max(coverages, axis=0) >= 0.5)


def _keep_visible(layers: list[_Layer]) -> list[tuple[_Layer, np.ndarray]]:
    """Drop layers that are mostly hidden, and pair the others with the (H, W) bool masks of their visible pixels."""
    if not layers:
        return []
    kept: list[tuple[_Layer, np.ndarray]] = []
    hidden = np.zeros_like(layers[0].mask)
    for layer in reversed(layers):  # from the top, because a dropped layer hides nothing
        visible = layer.mask & ~hidden
        if visible.sum() >= max(1, MIN_VISIBLE_RATE * layer.mask.sum()):
            kept.append((layer, visible))
            hidden = hidden | layer.mask
    return kept[::-1]


def _regular(num_points: int) -> np.ndarray:
    """Return (V, 2) points on the unit circle, the first at the top of the picture."""
    angles = np.arange(num_points) * 2 * np.pi / num_points - np.pi / 2
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star() -> np.ndarray:
    points = _regular(10)
    points[1::2] *= 0.45
    return points


def _cross() -> np.ndarray:
    h = 0.34  # half the width of an arm
    right_and_top = [(1, -h), (1, h), (h, h), (h, 1), (-h, 1), (-h, h)]
    left_and_bottom = [(-x, -y) for x, y in right_and_top]
    return np.array(right_and_top + left_and_bottom)


def _crescent() -> np.ndarray:
    """Return a unit disc minus a disc of radius 0.8 whose centre is 0.5 to the right."""
    radius, shift = 0.8, 0.5
    x = (shift**2 + 1 - radius**2) / (2 * shift)  # where the two circles meet, at (x, y) and (x, -y)
    y = np.sqrt(1 - x**2)
    outer = np.linspace(np.arctan2(y, x), 2 * np.pi - np.arctan2(y, x), 40)
    inner = np.linspace(2 * np.pi - np.arctan2(y, x - shift), np.arctan2(y, x - shift), 30)[1:-1]
    outer_points = np.stack([np.cos(outer), np.sin(outer)], axis=1)
    inner_points = np.stack([shift + radius * np.cos(inner), radius * np.sin(inner)], axis=1)
    return np.concatenate([outer_points, inner_points])


# None has a hole, which a COCO polygon could not express.
_OUTLINES = {
    "circle": _regular(64),
    "square": np.array([(1.0, 1.0), (-1.0, 1.0), (-1.0, -1.0), (1.0, -1.0)]),  # stretched to a rectangle, not a rhombus
    "triangle": _regular(3),
    "star": _star(),
    "cross": _cross(),
    "crescent": _crescent(),
}


def _outline(rng: np.random.Generator, class_index: int, *, side: float, centre: np.ndarray) -> np.ndarray:
    """Rotate, stretch and place the outline of a class.

    Args:
        rng: Source of the rotation and the stretch.
        class_index: Position in ``CLASS_NAMES``.
        side: Square root of the area in pixels; sizing by area, not by radius, makes all classes equally large.
        centre: (x, y) in pixels, where (0, 0) is the upper left corner of the upper left pixel.

    Returns:
        (V, 2) vertices (x, y).
    """
    points = _OUTLINES[CLASS_NAMES[class_index]]
    points = points - points.mean(axis=0)
    x, y = points.T
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    stretch = np.sqrt(rng.uniform(0.85, 1.0))
    # Tilted, but never upside down, like most things in photographs: a small model learns this in fewer steps.
    angle = rng.normal(0, _TILT)
    turn = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    return points * (side / np.sqrt(area)) * (stretch, 1 / stretch) @ turn + centre


def _coverage(outline: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Rasterise a (V, 2) outline to (H, W) float32, the share of each pixel that lies inside."""
    height, width = image_size
    fine = np.zeros((height * _SUPERSAMPLING, width * _SUPERSAMPLING), dtype=np.uint8)
    # OpenCV counts from the centre of the first pixel, the outline from its corner.
    vertices = np.round((outline * _SUPERSAMPLING - 0.5) * 2**_SUBPIXEL_BITS).astype(np.int32)
    cv2.fillPoly(fine, [vertices], color=255, shift=_SUBPIXEL_BITS)
    return cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _pick_colour(rng: np.random.Generator, used_colours: list[np.ndarray]) -> np.ndarray:
    """Pick a random RGB colour that stands out from those already in the picture, as (3,) float in [0, 255]."""
    candidates = rng.uniform(15, 240, size=(8, 3))
    if not used_colours:
        return candidates[0]
    distances = np.linalg.norm(candidates[:, None] - np.stack(used_colours), axis=2)
    return candidates[distances.min(axis=1).argmax()]


def _pick_dull_colour(rng: np.random.Generator) -> np.ndarray:
    """Pick a nearly grey RGB colour, as (3,) float in [0, 255]."""
    return np.clip(rng.uniform(40, 215) + rng.normal(0, 12, size=3), 0, 255)


def _pick_class_colour(rng: np.random.Generator, class_index: int) -> np.ndarray:
    """Pick a strong RGB colour around the hue of a class, as (3,) float in [0, 255]."""
    hue = (class_index + rng.normal(0, _HUE_DEVIATION)) / len(CLASS_NAMES)
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.6, 1), rng.uniform(0.5, 0.95)))


def _ramp(rng: np.random.Generator, image_size: tuple[int, int], period: float) -> np.ndarray:
    """Return the (H, W) distance along a random direction from a random origin, in periods."""
    height, width = image_size
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width]
    return (x * np.cos(angle) + y * np.sin(angle)) / period + rng.random()


def _plain(rng: np.random.Generator, image_size: tuple[int, int]) -> np.ndarray:
    return np.full(image_size, rng.random())


def _gradient(rng: np.random.Generator, image_size: tuple[int, int]) -> np.ndarray:
    ramp = _ramp(rng, image_size, period=1.0)
    return (ramp - ramp.min()) / np.ptp(ramp)


def _stripes(rng: np.random.Generator, image_size: tuple[int, int]) -> np.ndarray:
    ramp = _ramp(rng, image_size, period=rng.uniform(0.03, 0.12) * min(image_size))
    return 0.5 + 0.5 * np.sin(2 * np.pi * ramp)


def _checker(rng: np.random.Generator, image_size: tuple[int, int]) -> np.ndarray:
    height, width = image_size
    cell = rng.uniform(0.03, 0.1) * min(image_size)
    angle = rng.uniform(0, np.pi / 2)
    y, x = np.mgrid[:height, :width] / cell
    rows = np.floor(x * np.cos(angle) + y * np.sin(angle))
    columns = np.floor(y * np.cos(angle) - x * np.sin(angle))
    return (rows + columns) % 2


def _clouds(rng: np.random.Generator, image_size: tuple[int, int]) -> np.ndarray:
    height, width = image_size
    num_cells = int(rng.integers(4, 20))
    return cv2.resize(rng.random((num_cells, num_cells)), (width, height), interpolation=cv2.INTER_CUBIC)


_PATTERNS: tuple[Callable[[np.random.Generator, tuple[int, int]], np.ndarray], ...] = (
    _plain,
    _gradient,
    _stripes,
    _checker,
    _clouds,
)


def _texture(rng: np.random.Generator, image_size: tuple[int, int], colour: np.ndarray) -> np.ndarray:
    """Fill a picture with a pattern between two shades around a (3,) colour.

    Returns:
        (H, W, 3) float32, RGB in [0, 255].
    """
    pattern = _PATTERNS[rng.integers(len(_PATTERNS))](rng, image_size)
    direction = rng.normal(size=3)
    # Smaller than the distance between two picked colours, so that no object blends into its surroundings.
    contrast = rng.uniform(20, 60) * direction / np.linalg.norm(direction)
    return np.clip(colour + (pattern[..., None] - 0.5) * contrast, 0, 255).astype(np.float32)


def _photograph(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Add uneven light, lens blur and sensor noise to an (H, W, 3) float RGB drawing, and return it as uint8."""
    image_size = canvas.shape[:2]
    light = rng.uniform(0.85, 1.1) + rng.uniform(0, 0.25) * (_gradient(rng, image_size) - 0.5)
    blurred = cv2.GaussianBlur(canvas, (0, 0), sigmaX=rng.uniform(0.2, 0.8))
    noise = rng.standard_normal(canvas.shape, dtype=np.float32) * rng.uniform(1, 7)
    return np.clip(np.round(blurred * light[..., None] + noise), 0, 255).astype(np.uint8)
