"""What a user may name: files, folders, patterns, lists, addresses, cameras."""

import io
import os
from pathlib import Path

import pytest
from file_server import serving

from convnext_dense.inference import sources
from convnext_dense.inference.sources import Source, download, find_sources


@pytest.fixture
def tree(tmp_path):
    for name in ("b.jpg", "a.png", "clip.MP4", "notes.md", "deep/c.jpg", "deep/er/d.tif", "deep/.hidden/e.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def places(found, root):
    return [os.path.relpath(source.place, root) for source in found]


def test_folders_give_images_and_videos_in_order_and_subfolders_if_asked(tree):
    assert places(find_sources([tree]), tree) == ["a.png", "b.jpg", "clip.MP4"]
    found = find_sources([tree], recursive=True)
    assert places(found, tree) == ["a.png", "b.jpg", "clip.MP4", "deep/c.jpg", "deep/er/d.tif"]
    assert [source.folders for source in found] == [0, 0, 0, 1, 2]
    assert [source.is_video for source in found] == [False, False, True, False, False]


def test_each_file_is_found_once_in_the_order_it_was_named(tree):
    assert places(find_sources([tree / "b.jpg", tree, tree / "deep" / ".." / "a.png"]), tree) == [
        *("b.jpg", "a.png", "clip.MP4")
    ]


def test_patterns_are_matched(tree, monkeypatch):
    assert places(find_sources([f"{tree}/*.[jp]*g"]), tree) == ["a.png", "b.jpg"]
    assert places(find_sources([f"{tree}/**/*.jpg"]), tree) == ["b.jpg", "deep/c.jpg"]
    with pytest.raises(ValueError, match=r"No file matches .*\*\.bmp"):
        find_sources([f"{tree}/*.bmp"])
    (tree / "[1].jpg").write_bytes(b"x")  # a name that is also a pattern
    assert places(find_sources([tree / "[1].jpg"]), tree) == ["[1].jpg"]


def test_lists_name_files_that_are_beside_them(tree, monkeypatch):
    (tree / "list.txt").write_text("# mine\nb.jpg\n\n deep/c.jpg \nhttps://a.b/c.jpg\n", encoding="utf-8-sig")
    assert places(find_sources([tree / "list.txt"])[:2], tree) == ["b.jpg", "deep/c.jpg"]
    assert find_sources([tree / "list.txt"])[2].is_address
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{tree}/a.png\n"))
    assert places(find_sources(["-"]), tree) == ["a.png"]
    (tree / "empty.txt").write_text("# nothing\n")
    with pytest.raises(ValueError, match=r"List .*empty\.txt names no image"):
        find_sources([tree / "empty.txt"])
    with pytest.raises(ValueError, match=r"List .*gone\.txt cannot be read"):
        find_sources([tree / "gone.txt"])


@pytest.mark.parametrize(
    ("place", "is_video", "is_live", "path"),
    [
        ("https://a.b:80/x/y%20z.jpg?size=3", False, False, "a.b_80/x/y_z.jpg"),
        ("http://a.b/clip.mp4?x", True, False, "a.b/clip.mp4"),
        ("rtsp://a.b/live", True, True, "rtsp_a_b_live"),
        ("camera:0", True, True, "camera_0"),
    ],
)
def test_addresses_have_names_for_what_is_written(place, is_video, is_live, path):
    (source,) = find_sources([place])
    assert (source.is_video, source.is_live, source.path) == (is_video, is_live, Path(path))


def test_addresses_are_downloaded_up_to_a_size(tmp_path, monkeypatch):
    with serving(b"0123456789") as server:
        file = download(server.address("a.jpg"), tmp_path)
        assert file.read_bytes() == b"0123456789"
        assert file.suffix == ".jpg"
    monkeypatch.setattr(sources, "MAX_BYTES", 9)
    for says_its_size in (True, False):
        with (
            serving(b"0123456789", sized=says_its_size) as server,
            pytest.raises(ValueError, match="has more than 0 MB"),
        ):
            download(server.address("a.jpg"), tmp_path)


@pytest.mark.parametrize(
    ("behaviour", "text"),
    [
        (dict(status=404), r"could not be downloaded \(HTTP Error 404"),
        (dict(cut=4), r"broke off after 4 of 10|IncompleteRead"),
    ],
)
def test_failed_download_is_named(tmp_path, behaviour, text):
    with serving(b"0123456789", **behaviour) as server, pytest.raises(ValueError, match=rf"a\.jpg.*{text}"):
        download(server.address("a.jpg"), tmp_path)


def test_missing_files_are_named(tree):
    assert find_sources([tree / "gone.jpg"]) == [Source(str(tree / "gone.jpg"))]  # it is said when its turn comes
    for name in ("gone", "gone.csv", "go*.jpg"):
        with pytest.raises(ValueError, match="go"):
            find_sources([tree / name])
    assert Source("a.jpg").path == Path("a.jpg")
