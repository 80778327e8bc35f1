"""Progress bars of commands, on terminals rendered by pyte."""

import io
import sys
import time
from types import SimpleNamespace

import pytest
from rich.console import Console
from terminals import Terminal

from convnext_dense import terminal
from convnext_dense.errors import UserError
from convnext_dense.terminal import Display, FactLines, Progress, print_line, track

SECONDS = terminal._SECONDS


@pytest.fixture(autouse=True)
def _every_state_is_drawn(monkeypatch):
    monkeypatch.setattr(terminal, "_SECONDS", 0.0)


def test_bar_counts_and_leaves_no_trace():
    def count():
        for number in track(["a", "b", "c"], "letters"):
            print(f"line {number}")
        print("end")

    shown = Terminal(count)
    assert shown.showed("letters 2 of 3", "line a", "line b", "left")
    assert shown.text == "line a\nline b\nline c\nend"
    assert shown.cursor == (4, 0)


def test_bytes_are_written_in_megabytes_and_the_rest_of_a_download_has_its_own_speed(monkeypatch):
    """1 MB was there; 2 MB in 4 seconds are 500 kB/s, so that the last MB takes 2 seconds."""
    clock = iter([100.0, *[104.0] * 100])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    progress = Progress("file", 4_000_000, is_bytes=True)
    progress.skip(1_000_000)
    progress.advance(2_000_000)
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(progress._render())
    text = console.export_text()
    assert "file 3.0 MB of 4.0 MB" in text
    assert "0:00:02 left" in text
    assert "500.0 kB/s" in text


def test_error_stands_where_the_bar_was():
    def fail():
        for number in track(range(5), "numbers"):
            if number == 3:
                raise UserError("The third is wrong.")

    shown = Terminal(fail)
    assert shown.code == 1
    assert shown.showed("numbers 3 of 5")
    assert shown.text == "Error: The third is wrong."


def test_bar_inside_another_is_not_shown():
    def nest():
        for _ in track(range(3), "outer"):
            list(track(range(3), "inner"))

    shown = Terminal(nest)
    assert shown.showed("outer 2 of 3")
    assert not shown.showed("inner")


def test_errors_that_go_to_a_file_stay_there(tmp_path):
    def redirect():
        with (tmp_path / "errors").open("w") as sys.stderr:
            for _ in track(range(3), "numbers"):
                print("into the file", file=sys.stderr)

    shown = Terminal(redirect)
    assert "into the file" not in shown.text
    assert (tmp_path / "errors").read_text() == "into the file\n" * 3


def test_without_a_terminal_there_is_silence_or_a_line_now_and_then(capfd):
    assert list(track(range(3), "numbers")) == [0, 1, 2]
    with Progress("file", 3_000_000, is_bytes=True, plain_seconds=1e9) as progress:
        progress.advance(1_000_000)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == "file: 1.0 MB of 3.0 MB\n"


def test_long_path_can_be_copied_in_one_piece():
    path = "/a" * 30
    shown = Terminal(lambda: print_line(f"Written into {path}"), width=40)
    assert path.encode() in shown.raw
    assert shown.text.splitlines()[0] == "Written into"


def test_facts_stand_below_each_other():
    """Tab stops are every 10 columns: "loss 1.0" takes one and its gap a second, the long one three."""
    console = Console(width=40, record=True, file=io.StringIO())
    console.print(FactLines([("loss", "1.0"), ("lr", "0.1"), ("a_long_name_of_one", "2.0"), ("", "3 left")]))
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert lines == ["loss 1.0  lr 0.1", "a_long_name_of_one 2.0        3 left"]


def test_facts_may_end_at_the_edge():
    """Four facts of 8 columns and a gap of 2 between them are 38 columns."""
    console = Console(width=38, record=True, file=io.StringIO())
    console.print(FactLines([("", "12345678")] * 4))
    assert console.export_text().rstrip() == "  ".join(["12345678"] * 4)


def test_a_display_is_drawn_twice_a_second_or_at_once(monkeypatch):
    clock, drawn = [100.0], []
    display = Display(str)
    monkeypatch.setattr(terminal, "_SECONDS", SECONDS)
    monkeypatch.setattr(terminal, "_displays", [display])
    monkeypatch.setattr(terminal, "console", lambda: SimpleNamespace(print=lambda *_: drawn.append(clock[0])))
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    display.draw(now=True)
    for clock[0] in (100.25, 100.5, 100.75, 101.0, 101.25):
        display.draw()
    display.draw(now=True)
    assert drawn == [100.0, 100.5, 101.0, 101.25]


def test_items_may_be_of_unknown_number_or_more_than_was_said():
    assert list(track(iter("abc"), "letters")) == ["a", "b", "c"]
    progress = Progress("letters", 2)
    progress.advance(3)
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(progress._render())
    assert "0:00:00 left" in console.export_text()
