"""Downloads from a real server: continued, checked, once for all processes, and given up in time."""

import hashlib
import multiprocessing
import os
import random
import signal
import socket
import time
from pathlib import Path

import pytest
import torch
from documented_names import CHANNELS, DATA, DEPTHS
from file_server import serving
from safetensors.torch import save_file

from convnext_dense.checkpoints import fetch, load_weights, read_checkpoint
from convnext_dense.checkpoints.digests import find_digest
from convnext_dense.checkpoints.downloads import OPEN_SECONDS, cached_path, download
from convnext_dense.errors import UserError
from convnext_dense.models import ConvNeXt

CONTENT = random.Random(0).randbytes(3 << 20)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NAME = f"net-{DIGEST[:8]}.pth"


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """The cache, which torch.hub puts into TORCH_HOME/hub/checkpoints."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert torch.hub.get_dir() == str(tmp_path / "hub")
    return tmp_path / "hub" / "checkpoints"


def kept(folder):
    """Returns the names that a user sees, without hidden files."""
    return sorted(path.name for path in folder.glob("*") if not path.name.startswith("."))


def test_file_is_downloaded_once_and_whole(folder):
    with serving(CONTENT) as server:
        path = download(server.address(NAME))
        assert path == folder / NAME
        assert path.read_bytes() == CONTENT
        assert download(server.address(NAME)) == path
    assert server.requests == [None]
    assert kept(folder) == [NAME]
    assert download(server.address(NAME)) == path  # the server is gone


def test_progress_is_shown(capfd):
    with serving(CONTENT) as server:
        download(server.address(NAME))
    shown = capfd.readouterr().err
    assert f"{NAME}: 3.1 MB of 3.1 MB" in shown  # 3 * 2**20 bytes


def test_broken_download_is_continued_where_it_ended(folder):
    with serving(CONTENT, cut=2_000_001) as server:
        with pytest.raises(
            UserError, match=rf"{NAME} broke off after 2000001 of 3145728 bytes: run the command again, .*\.partial\."
        ):
            download(server.address(NAME))
        assert kept(folder) == [f"{NAME}.partial"]
        assert (folder / f"{NAME}.partial").read_bytes() == CONTENT[:2_000_001]
        assert download(server.address(NAME)).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=2000001-"]
    assert kept(folder) == [NAME]


def test_server_that_sends_no_parts_starts_again(folder):
    with serving(CONTENT, cut=1000, ranges=False) as server:
        with pytest.raises(UserError, match="broke off after 1000 of"):
            download(server.address(NAME))
        assert download(server.address(NAME)).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=1000-"]


@pytest.mark.parametrize("tags", [('"1"', '"2"'), ('W/"1"', 'W/"2"')])
def test_file_that_changed_on_the_server_starts_again(folder, tags):
    """Without a digest in its name, only the server's tag tells the halves of two versions apart."""
    with serving(CONTENT, cut=1000, tag=tags[0]) as server:
        with pytest.raises(UserError, match="broke off"):
            download(server.address("net.pth"))
        server.content, server.tag = CONTENT[::-1], tags[1]
        assert download(server.address("net.pth")).read_bytes() == CONTENT[::-1]
    assert server.requests == [None, "bytes=1000-", None]


def test_digest_is_compared_again_once_the_file_or_the_published_digest_is_another(folder):
    """Once for each size, time and published digest: a file of the same size does not pass for the one before."""
    folder.mkdir(parents=True)
    (folder / "net.pth").write_bytes(CONTENT)
    address = "http://127.0.0.1:1/net.pth"
    download(address, digest=DIGEST)
    with pytest.raises(UserError, match=r"but ffffffff\.\.\. was published"):
        download(address, digest="f" * 64)
    (folder / "net.pth").write_bytes(CONTENT[::-1])
    with pytest.raises(UserError, match=rf"but {DIGEST[:8]}\.\.\. was published: it is damaged"):
        download(address, digest=DIGEST)


def test_a_new_download_is_compared_by_its_digest_once(folder, monkeypatch):
    with serving(CONTENT) as server:
        path = download(server.address("net.pth"), digest=DIGEST)
        monkeypatch.setattr(
            "convnext_dense.checkpoints.digests.hash_file", lambda _: pytest.fail("it was hashed again")
        )
        assert download(server.address("net.pth"), digest=DIGEST) == path


def test_file_of_a_quoted_address_has_the_name_that_is_meant(folder):
    assert cached_path("https://host/a%20net%2Bhead.pth?download=true") == folder / "a net+head.pth"


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>", b"PK\x03\x04" + bytes(50)])
def test_bad_file_in_the_cache_is_said_to_be_deleted(folder, content, tmp_path):
    folder.mkdir(parents=True)
    (folder / "net.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"It is in the cache: delete it, and it is downloaded again\."):
        read_checkpoint("http://127.0.0.1:1/net.pth")
    (tmp_path / "net.pth").write_bytes(content)
    with pytest.raises(UserError) as raised:
        read_checkpoint(tmp_path / "net.pth")
    assert "It is in the cache" not in str(raised.value)


@pytest.mark.parametrize("surplus", [0, 10])
def test_partial_file_that_is_too_long_starts_again(folder, surplus):
    folder.mkdir(parents=True)
    (folder / f"{NAME}.partial").write_bytes(CONTENT + bytes(surplus))
    with serving(CONTENT, tag=None) as server:
        assert download(server.address(NAME)).read_bytes() == CONTENT


def test_file_of_unknown_length_is_downloaded(folder):
    with serving(CONTENT, sized=False, tag=None) as server:
        assert download(server.address(NAME)).read_bytes() == CONTENT


def start(address, seconds=20.0):
    """Starts a process that downloads, and returns it once there is something in the partial file."""
    process = multiprocessing.get_context("fork").Process(target=download, args=(address,))
    process.start()
    partial = cached_path(address)
    partial = partial.with_name(f"{partial.name}.partial")
    end = time.monotonic() + seconds
    while not (partial.is_file() and partial.stat().st_size) and time.monotonic() < end:
        time.sleep(0.01)
    return process


def test_killed_download_is_continued(folder):
    with serving(CONTENT, stall=30) as server:
        process = start(server.address(NAME))
        time.sleep(0.3)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        there = (folder / f"{NAME}.partial").stat().st_size
        assert 0 < there <= len(CONTENT) // 2
        server.stall = 0
        assert download(server.address(NAME)).read_bytes() == CONTENT
    assert server.requests == [None, f"bytes={there}-"]


def test_processes_that_want_one_file_download_it_once(folder):
    with serving(CONTENT, stall=0.5) as server:
        processes = [start(server.address(NAME)) for _ in range(4)]
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0] * 4
    assert server.requests == [None]
    assert kept(folder) == [NAME]


def test_wrong_file_is_not_kept(folder):
    found, digits = hashlib.sha256(b"another file").hexdigest()[:8], DIGEST[:8]
    message = rf"has the sha256 {found}\.\.\., but {digits}\.\.\. was published: it was not kept, so run"
    with serving(b"another file") as server, pytest.raises(UserError, match=message):
        download(server.address(NAME))
    assert kept(folder) == []


def test_given_digest_counts_more_than_the_name(folder):
    with serving(CONTENT) as server:
        assert download(server.address("net-00000000.pth"), digest=DIGEST).is_file()
        with pytest.raises(UserError, match=rf"other\.pth has the sha256 {DIGEST[:8]}\.\.\., but ffffffff\.\.\. was"):
            download(server.address("other.pth"), digest="f" * 64)


def test_file_put_there_by_hand_is_used_and_compared_once(folder, monkeypatch):
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(CONTENT)
    assert download(f"http://127.0.0.1:1/{NAME}") == folder / NAME
    with monkeypatch.context() as patch:
        patch.setattr("convnext_dense.checkpoints.digests.hash_file", lambda _: pytest.fail("it was hashed again"))
        download(f"http://127.0.0.1:1/{NAME}")
    (folder / NAME).write_bytes(CONTENT[:-1])
    found = hashlib.sha256(CONTENT[:-1]).hexdigest()
    with pytest.raises(
        UserError,
        match=rf"{NAME} has the sha256 {found[:8]}\.\.\., but {DIGEST[:8]}\.\.\. was published: it is damaged",
    ):
        download(f"http://127.0.0.1:1/{NAME}")
    assert (folder / NAME).is_file()  # it is the user's


def test_read_only_cache_is_read(folder, monkeypatch):
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(CONTENT)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", refuse)
        assert download(f"http://127.0.0.1:1/{NAME}").is_file()
        patch.setattr(Path, "mkdir", refuse)
        with pytest.raises(UserError, match=r"none\.pth cannot be written: Permission denied\."):
            download("http://127.0.0.1:1/none.pth")


@pytest.mark.parametrize(
    ("name", "digits"),
    [
        ("convnext_tiny-983f1562.pth", "983f1562"),  # torchvision
        ("mask_rcnn_convnext-t_p4_w7_fpn_fp16_ms-crop_3x_coco_20220426_154953-050731f4.pth", "050731f4"),
        ("rtmdet_l_convnext_b_4xb32-100e_coco-d4731b3d.pth", "d4731b3d"),
        ("convnext_tiny_22k_1k_224.pth", None),
        ("net-20230101.pth", None),  # a date
        ("net-12345678.pth", "12345678"),
        ("net-d4731b3d", None),
        ("net-deadbee.pth", None),
        ("net-d4731b3d-2.pth", None),
    ],
)
def test_digits_of_the_digest_are_found_in_names(name, digits):
    assert find_digest(name) == digits


@pytest.mark.parametrize("status", [401, 403, 404, 503])
def test_refusal_is_named_with_the_place_of_the_file(folder, status):
    message = rf"could not be downloaded \(HTTP Error {status}: .*\)\. Put the file at {folder / 'a.pth'}, or name a"
    with serving(CONTENT, status=status) as server, pytest.raises(UserError, match=message):
        download(server.address("a.pth"))
    assert kept(folder) == []


def test_refusal_of_a_gated_file_names_the_page_of_its_licence(folder):
    with (
        serving(CONTENT, status=403) as server,
        pytest.raises(
            UserError, match=rf"Accept its licence at https://e\.org/l, and put the file at {folder}/a\.pth\."
        ),
    ):
        download(server.address("a.pth"), page="https://e.org/l")


def test_server_that_does_not_answer_is_given_up(monkeypatch):
    assert OPEN_SECONDS < 10
    monkeypatch.setattr("convnext_dense.checkpoints.downloads.OPEN_SECONDS", 0.3)
    begin = time.monotonic()
    with serving(CONTENT, delay=2) as server, pytest.raises(UserError, match=r"\(no answer within 0\.3 seconds\)"):
        download(server.address(NAME))
    assert time.monotonic() - begin < 1.5


def test_name_that_is_never_resolved_is_given_up(monkeypatch):
    """As behind a firewall that drops questions to name servers, for which Python has no timeout."""
    monkeypatch.setattr("convnext_dense.checkpoints.downloads.OPEN_SECONDS", 0.3)
    monkeypatch.setattr("convnext_dense.checkpoints.sources.OPEN_SECONDS", 0.3)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(3))
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"no answer within 0\.3 seconds"):
        download("http://example.org/a.pth")
    for source in ("timm:convnext_tiny.fb_in1k", "hf:facebook/convnext-tiny-224"):
        with pytest.raises(UserError, match=r"no answer within 0\.3 seconds"):
            fetch(source)
    assert time.monotonic() - begin < 2.5


def test_server_that_stalls_is_given_up_and_continued(folder, monkeypatch):
    monkeypatch.setattr("convnext_dense.checkpoints.downloads.READ_SECONDS", 0.3)
    with serving(CONTENT, stall=2) as server:
        with pytest.raises(UserError, match=rf"broke off after {len(CONTENT) // 2} of \d+ bytes \(.*timed out\)"):
            download(server.address(NAME))
        server.stall = 0
        assert download(server.address(NAME)).read_bytes() == CONTENT


def test_server_that_sends_another_part_is_refused(folder):
    folder.mkdir(parents=True)
    (folder / f"{NAME}.partial").write_bytes(CONTENT[:1000])
    with serving(CONTENT) as server:
        server.answer = lambda request: (
            request.send_response(206),
            request.send_header("Content-Range", "bytes 5-9/10"),
            request.end_headers(),
        )
        with pytest.raises(UserError, match=r"sent bytes 5-9/10 instead of the rest of the file"):
            download(server.address(NAME))


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/", "http://127.0.0.1:1/weights/", "https://e.org/a/.."])
def test_address_without_a_file_is_an_error(address):
    with pytest.raises(UserError, match=rf"Checkpoint {address} is an address without the name of a file"):
        download(address)


@pytest.mark.parametrize("address", ["http://127.0.0.1:port/a.pth", "http://[1/a.pth", "http://127.0.0.1/a b\n.pth"])
def test_address_that_is_none_is_an_error(address):
    with pytest.raises(UserError, match="Checkpoint http://"):
        download(address)


@pytest.mark.parametrize("source", ["timm:convnext_small8.fb_in1k", "hf:facebook/convnext-8"])
def test_file_of_the_hub_is_found_where_the_message_says(source, folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"put its file at (.*model\.safetensors), or name") as error:
        fetch(source)
    place = Path(str(error.value).split("put its file at ")[1].split(", or name")[0])
    assert place.is_relative_to(folder)
    place.parent.mkdir(parents=True)
    save_file(torch.load(DATA / "official_v1.pth", weights_only=True)["model"], place)
    report = load_weights(ConvNeXt(dict(depths=DEPTHS, channels=CHANNELS)), source)
    assert (report.source, report.missing) == (source, ())
