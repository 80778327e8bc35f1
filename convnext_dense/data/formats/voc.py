"""Pascal VOC: an XML file of boxes for each image.

Read from VOC's own folders (``Annotations``, ``JPEGImages``, ``ImageSets/Main/train.txt``) and from any others, whose
names say the split.

Source: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html, whose pixels are numbered from 1, the
last one included. Some tools number from 0: then a box somewhere begins with 0, or numbers have a decimal point.
"""

from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

from convnext_dense.config.datasets import SPLIT_FOLDERS
from convnext_dense.data.formats.annotations import Annotations, number_at
from convnext_dense.data.formats.finding import ImageIndex, by_split, walk
from convnext_dense.data.formats.xml_files import begins_with, line_of, read_xml, text_of
from convnext_dense.data.text_files import read_lines
from convnext_dense.errors import UserError

NAME = "Pascal VOC"


def find_splits(folder: Path) -> list[str] | None:
    """Return the splits of a folder in this format; None for a folder in another format."""
    return list(_files(folder)) or None


def source_files(folder: Path) -> Iterator[Path]:
    """Yield the folders and files on whose content the annotations depend."""
    yield folder


def read(folder: Path, splits: list[str], _: Path) -> tuple[dict[str, Annotations], list[str]]:
    """Read splits of a folder.

    Returns:
        The objects by split, and the class names, sorted.

    Raises:
        UserError: An XML file is wrong; the message names the file and the line.
    """
    files = _files(folder)
    roots = {split: [(file, read_xml(file)) for file in files[split]] for split in splits}
    corners = [
        text
        for each in roots.values()
        for _, root in each
        for key in ("xmin", "ymin")
        for text in (item.findtext(f"bndbox/{key}") or "" for item in root.iter("object"))
    ]
    first = 0 if any(text.strip() == "0" or "." in text for text in corners) else 1
    found = {split: _read_split(each, folder, split, first) for split, each in roots.items()}
    names = sorted({item.name for annotations in found.values() for item in annotations.objects})
    return found, names


def _files(folder: Path) -> dict[str, list[Path]]:
    """Return the XML files of each split."""
    # The devkit has a folder of the year around it.
    root = next((path.parent for path in sorted(folder.glob("VOC*/ImageSets"))), folder)
    found = {split: _listed(root, split) for split in SPLIT_FOLDERS}
    if any(found.values()):
        return {split: files for split, files in found.items() if files}
    files = list(walk(folder, (".xml",)))
    if not files or not begins_with(files[0], "annotation"):
        return {}
    return by_split(files, folder, is_whole=False)


def _listed(folder: Path, split: str) -> list[Path]:
    listed = folder / "ImageSets" / "Main" / f"{split}.txt"
    if not listed.is_file() or not (folder / "Annotations").is_dir():
        return []
    files = []
    for number, line in enumerate(read_lines(listed), start=1):
        file = folder / "Annotations" / f"{line.split()[0]}.xml"
        if not file.is_file():
            raise UserError(f"Image set {listed}, entry {number}, names {file}, which does not exist.")
        files.append(file)
    return files


def _read_split(roots: list[tuple[Path, Element]], folder: Path, split: str, first: int) -> Annotations:
    annotations, images = Annotations(folder), ImageIndex(folder)
    for file, root in roots:
        if root.tag != "annotation":
            raise UserError(f"File {file} begins with <{root.tag}>: VOC's files begin with <annotation>.")
        path = images.find((root.findtext("filename") or "").strip() or file.stem, file, split)
        size = root.find("size")
        declared = (None, None) if size is None else (size.findtext("height"), size.findtext("width"))
        annotated = path if path.is_file() else images.find(file.stem, file, split)
        image = annotations.add_image(annotated, f"File {file}", declared)
        for item in root.iter("object"):
            _read_object(item, file, image, annotations, first)
    return annotations


def _read_object(item: Element, file: Path, image: tuple[int, int, int], annotations: Annotations, first: int) -> None:
    source = f"File {file}, line {line_of(item)},"
    name = text_of(item, "name", file)
    box = item.find("bndbox")
    if box is None:
        raise UserError(f"{source} has an object without <bndbox>.")
    x1, y1, x2, y2 = (number_at(text_of(box, key, file), source, key) for key in ("xmin", "ymin", "xmax", "ymax"))
    polygon = item.find("polygon")
    is_difficult = (item.findtext("difficult") or "0").strip() == "1"
    if is_difficult:
        annotations.left_out["difficult objects are ignored, as crowds are"] += 1
    if polygon is not None and len(polygon) >= 6:
        places = [number_at(point.text, source, point.tag) - first for point in polygon]
        annotations.add_polygons(image, name, [places], is_ignored=is_difficult)
    else:
        annotations.add_box(image, name, (x1 - first, y1 - first, x2, y2), is_ignored=is_difficult)
