"""Finds annotation files, the split of each, and the images that they name, wherever a tool has put them."""

import codecs
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from convnext_dense.config.datasets import SPLIT_FOLDERS, quote
from convnext_dense.data.conversions import OWN_FOLDERS
from convnext_dense.data.opened_images import READABLE_SUFFIXES
from convnext_dense.errors import UserError

_SPLIT_OF = {word: split for split, words in SPLIT_FOLDERS.items() for word in words}
_NO_DATA = (*OWN_FOLDERS, "__MACOSX")
_WORDS = re.compile(r"[a-z]+")


def walk(folder: Path, suffixes: Sequence[str]) -> Iterator[Path]:
    """Yield the files of a folder and its sub-folders with these endings, in order, except hidden ones."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _NO_DATA)
        for name in sorted(names):
            if name.lower().endswith(tuple(suffixes)) and not name.startswith("."):
                yield Path(parent, name)


def start_of(path: Path, ends: Mapping[bytes, bytes], kind: str) -> bytes:
    """Return the first 4096 bytes of a file of text, and look at its last ones.

    Args:
        path: The file.
        ends: The character that the file must end with, by the one that it begins with.
        kind: What it must be, for the message.

    Raises:
        UserError: The file is empty, or begins or ends otherwise.
    """
    with path.open("rb") as file:
        start = file.read(4096)
        file.seek(-min(64, path.stat().st_size), os.SEEK_END)
        end = file.read()
    first = start.removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return start
    if not start.strip() or first not in ends or end.rstrip()[-1:] != ends[first]:
        raise UserError(f"File {path} is {'empty' if not start.strip() else f'cut off or not {kind}'}. Copy it again.")
    return start


def json_files(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Yield the JSON files of a folder and its sub-folders with their content.

    Raises:
        UserError: A file is empty, cut off or not JSON.
    """
    for file in walk(folder, (".json",)):
        start_of(file, {b"{": b"}", b"[": b"]"}, "JSON")
        yield file, file.read_bytes()


def split_of(path: Path, root: Path, *, is_whole: bool = False) -> str | None:
    """Return the split that a file belongs to by a word in the names of its folders; None if none says so.

    Args:
        path: The file, inside ``root``.
        root: The folder of the data.
        is_whole: Whether the file may be that of a whole split, which its own name says: ``instances_train.json``.
    """
    *folders, name = path.relative_to(root).parts
    parts = [*reversed(folders), *([name.rpartition(".")[0]] if is_whole else [])]
    for part in parts:
        for word in _WORDS.findall(part.lower()):
            if word in _SPLIT_OF:
                return _SPLIT_OF[word]
    return None


def by_split(files: Sequence[Path], root: Path, *, is_whole: bool) -> dict[str, list[Path]]:
    """Return the files of each split; files that no name assigns to a split are train, if that holds for all of them.

    Raises:
        UserError: Some files belong to a split and some do not.
    """
    found: dict[str | None, list[Path]] = {}
    for file in files:
        found.setdefault(split_of(file, root, is_whole=is_whole), []).append(file)
    rest = found.pop(None, [])
    if rest and found:
        raise UserError(
            f"{root} has annotations of {quote(sorted(map(str, found)))}, and others whose split nothing says, such as "
            f"{rest[0]}: move them into a folder of their split."
        )
    if rest:
        return {"train": rest}
    return {split: found[split] for split in SPLIT_FOLDERS if split in found}


class ImageIndex:
    """Finds the images of a folder by the names in its annotation files.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._by_name: dict[str, list[Path]] | None = None
        self._folders: set[Path] = set()
        self._annotated: dict[tuple[Path, str], bool] = {}

    def find(self, name: str, near: Path, split: str) -> Path:
        """Return the path of an image; one that does not exist if it is nowhere.

        Tools write names relative to folders that an export lacks. So, where the name leads to no file beside the
        annotation file or in the folder, the image with the same file name is taken, if only one is in that split.

        Args:
            name: The image as an annotation file names it.
            near: The annotation file.
            split: The split of the annotation file.

        Raises:
            UserError: Several images have that file name.
        """
        name = name.replace("\\", "/")
        for base in (near.parent, self.root):
            path = Path(os.path.normpath(base / name))
            if self.root in path.parents and path.is_file():
                return path
        candidates = self._candidates(PurePosixPath(name))
        if "/" not in name and near.parent in self._folders:  # the images of this folder are beside their annotations
            candidates = [path for path in candidates if path.parent == near.parent]
        # An image beside other annotations, or of another split, is another image.
        candidates = [
            path for path in candidates if path.parent == near.parent or not self._has(path.parent, near.suffix)
        ]
        found = [path for path in candidates if split_of(path, self.root) in (None, split)]
        if len(found) > 1:
            found = [path for path in found if path.as_posix().endswith(f"/{name.lstrip('./')}")] or found
        if len(found) > 1:
            raise UserError(
                f"{near} names the image {name}, and there are several: {quote([str(each) for each in found])}."
            )
        return found[0] if found else near.parent / PurePosixPath(name).name

    def _has(self, folder: Path, suffix: str) -> bool:
        """Whether a folder has files of this ending."""
        if (folder, suffix) not in self._annotated:
            self._annotated[folder, suffix] = any(folder.glob(f"*{suffix}"))
        return self._annotated[folder, suffix]

    def _candidates(self, name: PurePosixPath) -> list[Path]:
        if self._by_name is None:
            self._by_name = {}
            for path in walk(self.root, READABLE_SUFFIXES):
                self._folders.add(path.parent)
                for key in {path.name, path.stem}:  # some tools leave the ending out
                    self._by_name.setdefault(key, []).append(path)
        return self._by_name.get(name.name, [])
