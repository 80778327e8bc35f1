"""Write a data set in COCO's layout in the layouts of other tools, as their documentation describes them."""

import json
import shutil
from xml.sax.saxutils import escape, quoteattr

import cv2
from pycocotools.coco import COCO

SPLITS = {"train": "train", "val": "val"}


class Split:
    """A split with polygons alone: crowds, and masks with holes, are left out of all formats alike."""

    def __init__(self, root, split):
        self.folder = root / f"{split}2017"
        content = json.loads((root / "annotations" / f"instances_{split}2017.json").read_text())
        self.names = [category["name"] for category in content["categories"]]
        self.content = content
        content["annotations"] = [
            item
            for item in content["annotations"]
            if isinstance(item["segmentation"], list) and len(item["segmentation"]) == 1
        ]
        self.images = content["images"]

    def objects(self, image):
        for item in self.content["annotations"]:
            if item["image_id"] == image["id"]:
                yield self.names[item["category_id"] - 1], item["bbox"], item["segmentation"][0]


def copy(split, image, folder):
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(split.folder / image["file_name"], folder / image["file_name"])


def write_coco(source, root):
    """Write what all the others have, in the layout of --data."""
    for name in SPLITS:
        split = Split(source, name)
        for image in split.images:
            copy(split, image, root / name)
        (root / f"instances_{name}.json").write_text(json.dumps(split.content))


def write_roboflow(source, root):
    for name, folder in (("train", "train"), ("val", "valid")):
        split = Split(source, name)
        for image in split.images:
            copy(split, image, root / folder)
        above = [dict(id=0, name="shapes", supercategory="none")]
        for category in split.content["categories"]:
            category["supercategory"] = "shapes"
        content = dict(split.content, categories=above + split.content["categories"])
        (root / folder / "_annotations.coco.json").write_text(json.dumps(content))


def write_yolo(source, root, *, boxes=False):
    for name in SPLITS:
        split = Split(source, name)
        (root / "labels" / name).mkdir(parents=True)
        for image in split.images:
            copy(split, image, root / "images" / name)
            lines = []
            for label, (x, y, w, h), polygon in split.objects(image):
                sides = (image["width"], image["height"])
                places = [(x + w / 2) / sides[0], (y + h / 2) / sides[1], w / sides[0], h / sides[1]]
                if not boxes:
                    places = [value / sides[place % 2] for place, value in enumerate(polygon)]
                lines.append(" ".join([str(split.names.index(label)), *(f"{place:.6f}" for place in places)]))
            file = root / "labels" / name / image["file_name"].replace(".jpg", ".txt")
            if lines:  # Ultralytics writes no file for a background
                file.write_text("\n".join(lines) + "\n")
    names = "\n".join(f"  {number}: {name}" for number, name in enumerate(split.names))
    (root / "data.yaml").write_text(f"path: {root}\ntrain: images/train\nval: images/val\nnames:\n{names}\n")


def write_voc(source, root):
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "Annotations").mkdir()
    for name in SPLITS:
        split = Split(source, name)
        for image in split.images:
            stem = f"{name}_{image['file_name'].removesuffix('.jpg')}"
            copy(split, image, root / "JPEGImages")
            (root / "JPEGImages" / image["file_name"]).rename(root / "JPEGImages" / f"{stem}.jpg")
            objects = "".join(
                f"<object><name>{escape(label)}</name><difficult>0</difficult><bndbox><xmin>{x + 1:g}</xmin>"
                f"<ymin>{y + 1:g}</ymin><xmax>{x + w:g}</xmax><ymax>{y + h:g}</ymax></bndbox></object>\n"
                for label, (x, y, w, h), _ in split.objects(image)
            )
            size = f"<size><width>{image['width']}</width><height>{image['height']}</height><depth>3</depth></size>"
            text = f"<annotation>\n<filename>{stem}.jpg</filename>\n{size}\n{objects}</annotation>\n"
            (root / "Annotations" / f"{stem}.xml").write_text(text)
        stems = [f"{name}_{image['file_name'].removesuffix('.jpg')}" for image in split.images]
        (root / "ImageSets/Main" / f"{name}.txt").write_text("\n".join(stems) + "\n")


def write_labelme(source, root):
    for name in SPLITS:
        split = Split(source, name)
        for image in split.images:
            copy(split, image, root / name)
            shapes = [
                dict(
                    label=label,
                    points=[list(point) for point in zip(polygon[::2], polygon[1::2], strict=True)],
                    group_id=None,
                    shape_type="polygon",
                    flags={},
                )
                for label, _, polygon in split.objects(image)
            ]
            content = dict(
                version="5.5.0",
                flags={},
                shapes=shapes,
                imagePath=image["file_name"],
                imageData=None,
                imageHeight=image["height"],
                imageWidth=image["width"],
            )
            (root / name / image["file_name"].replace(".jpg", ".json")).write_text(json.dumps(content))


def write_cvat(source, root):
    root.mkdir()
    for name in SPLITS:
        split = Split(source, name)
        lines = []
        for number, image in enumerate(split.images):
            copy(split, image, root / name / "images")
            lines.append(
                f"<image id='{number}' name={quoteattr(image['file_name'])} width='{image['width']}' "
                f"height='{image['height']}'>"
            )
            for label, _, polygon in split.objects(image):
                points = ";".join(f"{x:.2f},{y:.2f}" for x, y in zip(polygon[::2], polygon[1::2], strict=True))
                lines.append(f"<polygon label={quoteattr(label)} occluded='0' points='{points}' z_order='0'></polygon>")
            lines.append("</image>")
        labels = "".join(f"<label><name>{name}</name></label>" for name in split.names)
        text = f"<?xml version='1.0' encoding='utf-8'?>\n<annotations><version>1.1</version><meta><job><labels>{labels}"
        text += "</labels></job></meta>\n" + "\n".join(lines) + "\n</annotations>\n"
        (root / name / "annotations.xml").write_text(text)


def write_via(source, root):
    for name in SPLITS:
        split = Split(source, name)
        entries = {}
        for image in split.images:
            copy(split, image, root / name)
            size = (root / name / image["file_name"]).stat().st_size
            regions = [
                dict(
                    shape_attributes=dict(name="polygon", all_points_x=polygon[::2], all_points_y=polygon[1::2]),
                    region_attributes=dict(shape=label),
                )
                for label, _, polygon in split.objects(image)
            ]
            entries[f"{image['file_name']}{size}"] = dict(
                filename=image["file_name"], size=size, regions=regions, file_attributes={}
            )
        (root / name / "via_region_data.json").write_text(json.dumps(entries))


def as_objects(coco_file, folder):
    """Return image size -> sorted (class, box, mask) of a COCO file, image by image in the order of their pixels."""
    coco = COCO(str(coco_file))
    found = {}
    for image in coco.imgs.values():
        pixels = cv2.imread(str(folder / image["file_name"]))
        objects = [
            (
                coco.cats[item["category_id"]]["name"],
                item["bbox"],
                coco.annToMask(item) if "segmentation" in item else None,
            )
            for item in coco.imgToAnns[image["id"]]
        ]
        found[pixels.tobytes()] = sorted(objects, key=lambda item: (item[0], *item[1]))
    return found
