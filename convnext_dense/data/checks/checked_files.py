"""Keeps what the check of a converted annotation file found, beside the file: the next start need not read it whole."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from convnext_dense.data.checks.coco_annotations import Objects
from convnext_dense.data.checks.inspection import Finding
from convnext_dense.data.own.detection import read_head
from convnext_dense.files import written_whole


class CheckedFile(NamedTuple):
    """An annotation file that was checked before.

    Attributes:
        content: Its images and categories.
        num_annotations: Number of its annotations.
        objects: What was counted in them.
        findings: What was found in them.
    """

    content: dict[str, Any]
    num_annotations: int
    objects: Objects
    findings: list[Finding]


def recall(path: Path, **question: Any) -> CheckedFile | None:
    """Return what is known of a converted file; None for others, and if it was not checked for the same question."""
    kept = _place(path)
    if not kept.is_file() or (head := read_head(path)) is None:
        return None
    known = json.loads(kept.read_text(encoding="utf-8"))
    if known["question"] != _question(path, question):
        return None
    objects = Objects(**{**known["objects"], "in_images": frozenset(known["objects"]["in_images"])})
    return CheckedFile(head, known["num_annotations"], objects, [Finding(*each) for each in known["findings"]])


def remember(
    path: Path, content: Mapping[str, Any], objects: Objects, findings: Sequence[Finding], **question: Any
) -> None:
    """Keep what was found in a file, if it is a converted one."""
    if "images_in" not in content:
        return
    known = dict(
        question=_question(path, question),
        num_annotations=len(content["annotations"]),
        objects={**objects._asdict(), "in_images": list(objects.in_images), "per_class": dict(objects.per_class)},
        findings=[list(finding) for finding in findings],
    )
    with written_whole(_place(path), flush=False) as partial:
        partial.write_text(json.dumps(known), encoding="utf-8")


def _place(path: Path) -> Path:
    return path.with_suffix(".checked.json")


def _question(path: Path, question: Mapping[str, Any]) -> list[Any]:
    state = path.stat()
    return json.loads(json.dumps([state.st_size, state.st_mtime_ns, dict(question)]))
