"""Pascal VOC: an XML file of boxes for each image.

Read from VOC's own folders (``Annotations``, ``JPEGImages``, ``ImageSets/Main/train.txt``) and from folders ``train``,
``valid`` or ``val``, and ``test`` in which every XML file lies beside its image.

Source: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html, whose pixels are numbered from 1, the
last one included.
"""

from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

from convnext_dense.data.formats.annotations import SPLIT_FOLDERS, Annotations, number_at
from convnext_dense.data.formats.xml_files import line_of, read_xml, text_of
from convnext_dense.data.opened_images import IMAGE_SUFFIXES
from convnext_dense.data.text_files import read_lines
from convnext_dense.errors import UserError

NAME = "Pascal VOC"


def find_splits(folder: Path) -> list[str] | None:
    """Return the splits of a folder in this format; None for a folder in another format."""
    found = [split for split in SPLIT_FOLDERS if next(_files(folder, split), None) is not None]
    return found or None


def source_files(folder: Path) -> Iterator[Path]:
    """Yield the folders and files on whose content the annotations depend."""
    yield from (folder / name for name in ("Annotations", "JPEGImages", "ImageSets/Main"))
    yield from (folder / name for names in SPLIT_FOLDERS.values() for name in names)


def read(folder: Path, splits: list[str], _: Path) -> tuple[dict[str, Annotations], list[str]]:
    """Read splits of a folder.

    Returns:
        The objects by split, and the class names, sorted.

    Raises:
        UserError: An XML file is wrong; the message names the file and the line.
    """
    found = {split: _read_split(folder, split) for split in splits}
    names = sorted({item["name"] for annotations in found.values() for item in annotations.objects})
    return found, names


def _files(folder: Path, split: str) -> Iterator[tuple[Path, Path]]:
    """Yield the XML files of a split, each with the folder of its image."""
    listed = folder / "ImageSets" / "Main" / f"{split}.txt"
    if listed.is_file():
        for number, line in enumerate(read_lines(listed), start=1):
            file = folder / "Annotations" / f"{line.split()[0]}.xml"
            if not file.is_file():
                raise UserError(f"Image set {listed}, entry {number}, names {file}, which does not exist.")
            yield file, folder / "JPEGImages"
        return
    for name in SPLIT_FOLDERS[split]:
        for file in sorted((folder / name).glob("*.xml")):
            yield file, file.parent
        for file in sorted((folder / name / "Annotations").glob("*.xml")):
            yield file, folder / name / "JPEGImages"


def _read_split(folder: Path, split: str) -> Annotations:
    annotations = Annotations(folder)
    for file, images in _files(folder, split):
        root = read_xml(file)
        if root.tag != "annotation":
            raise UserError(f"File {file} begins with <{root.tag}>: VOC's files begin with <annotation>.")
        image = annotations.add_image(_image_of(root, file, images), f"File {file}")
        for item in root.iter("object"):
            _read_object(item, file, image, annotations)
    return annotations


def _image_of(root: Element, file: Path, images: Path) -> Path:
    name = text_of(root, "filename", file)
    named = images / Path(name).name
    beside = [images / f"{file.stem}{suffix}" for suffix in IMAGE_SUFFIXES]
    return next((path for path in (named, *beside) if path.is_file()), named)


def _read_object(item: Element, file: Path, image: tuple[int, int, int], annotations: Annotations) -> None:
    source = f"File {file}, line {line_of(item)},"
    name = text_of(item, "name", file)
    box = item.find("bndbox")
    if box is None:
        raise UserError(f"{source} has an object without <bndbox>.")
    x1, y1, x2, y2 = (number_at(text_of(box, key, file), source, key) for key in ("xmin", "ymin", "xmax", "ymax"))
    polygon = item.find("polygon")
    is_difficult = (item.findtext("difficult") or "0").strip() == "1"
    if polygon is not None and len(polygon) >= 6:
        corners = [number_at(point.text, source, point.tag) for point in polygon]
        annotations.add_polygons(image, name, [corners])
        return
    if is_difficult:
        annotations.left_out["difficult objects are ignored, as crowds are"] += 1
    annotations.add_box(image, name, (x1 - 1, y1 - 1, x2, y2), is_ignored=is_difficult)
