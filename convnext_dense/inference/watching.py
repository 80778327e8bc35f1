"""A run over many images and videos that somebody watches."""

import contextlib
import itertools
from collections.abc import Sequence

from convnext_dense.errors import UserError
from convnext_dense.inference.running import Done, Run
from convnext_dense.inference.sources import Source
from convnext_dense.inference.video import Video, of_last_frame
from convnext_dense.terminal import Progress

_SHOWN_ERRORS = 20


def describe_failed(failed: Sequence[Done], number: int) -> str:
    """Return what is wrong with the sources that could not be read, of a number of them."""
    lines = [str(done.error) for done in failed[:_SHOWN_ERRORS]]
    if number == 1:
        return lines[0]
    more = [f"and {len(failed) - _SHOWN_ERRORS} more"] if len(failed) > _SHOWN_ERRORS else []
    return "\n  ".join([f"{len(failed)} of {number} could not be read, all others are done:", *lines, *more])


def watch(run: Run, sources: Sequence[Source]) -> list[Done]:
    """Do a run, with a line per image or video and a progress bar, and return what could not be read."""
    failed: list[Done] = []
    numbers = itertools.count(1)
    bar = Progress("predicting", count_images(sources))
    with bar, contextlib.closing(iter(run)) as running:  # files are whole when it is closed, also by a signal
        for _, of_source in itertools.groupby(running, key=lambda done: done.source):
            for done in of_source:
                bar.advance()
                last = done
            if last.error is not None:
                failed.append(last)
            found = f"not read: {last.error}" if last.error else last.text
            if last.frame:
                found = of_last_frame(last.frame, found)
            what = last.source.place if last.error else last.file
            print(f"[{next(numbers)}/{len(sources)}] {what}: {found}")
    return failed


def count_images(sources: Sequence[Source]) -> int | None:
    """Return the number of images and frames; None if it is not known before, as for cameras."""
    total = 0
    for source in sources:
        if not source.is_video:
            total += 1
            continue
        if source.is_live or source.is_address:
            return None
        with contextlib.suppress(UserError):
            total += Video(source.place).num_frames or 0
    return total
