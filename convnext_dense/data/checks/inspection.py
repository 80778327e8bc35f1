"""What checks of data have in common: how much they open, and what they found."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, NoReturn, TypeVar

from convnext_dense.errors import UserError

T = TypeVar("T")

# Opening all of COCO or ADE20K takes minutes; this many images, evenly spread, take about a second.
NUM_OPENED = 64

ERROR, WARNING, REPAIRED, NOTE = "error", "warning", "repaired", "note"


def evenly_spread(items: Sequence[T], number: int) -> list[T]:
    """Return that many of the items, from all over the sequence in its order; all of them where there are fewer."""
    number = min(number, len(items))
    return [items[index * len(items) // number] for index in range(number)]


class Finding(NamedTuple):
    """One kind of thing that was found.

    Attributes:
        severity: An ``ERROR`` is wrong, and a training that meets it stops; a ``WARNING`` is most likely not meant, and
            logged; ``REPAIRED`` is read in another way than it is written, and logged; a ``NOTE`` is allowed and good
            to know.
        check: What was looked at, in a few words.
        times: How often it was found.
        example: The first time, as a sentence that names the file and the value.
    """

    severity: str
    check: str
    times: int
    example: str


class Inspection:
    """Looks at data sets: what it opens, and what it has found so far.

    Args:
        num_opened: Images to open per data set; None for all.
        follow: Goes through items and shows how far it got; given the items and a word for them.

    Attributes:
        lines: One sentence per data set.
        takes_time: Whether checks that read whole files of several data sets are wanted.
    """

    def __init__(
        self,
        num_opened: int | None = NUM_OPENED,
        *,
        takes_time: bool = False,
        follow: Callable[[Sequence[Any], str], Iterable[Any]] | None = None,
    ) -> None:
        self.num_opened = num_opened
        self.takes_time = takes_time
        self.lines: list[str] = []
        self._follow = follow
        self._found: dict[tuple[str, str], Finding] = {}

    def error(self, check: str, example: str, times: int = 1) -> None:
        """Note what a training cannot or must not be run on."""
        self.add(Finding(ERROR, check, times, example))

    def warning(self, check: str, example: str, times: int = 1) -> None:
        """Note what is most likely not meant."""
        self.add(Finding(WARNING, check, times, example))

    def repaired(self, check: str, example: str, times: int = 1) -> None:
        """Note what is read in another way than it is written."""
        self.add(Finding(REPAIRED, check, times, example))

    def note(self, check: str, example: str, times: int = 1) -> None:
        """Note what is allowed and good to know."""
        self.add(Finding(NOTE, check, times, example))

    def add(self, new: Finding) -> None:
        """Note a finding, or that one of its kind was found again."""
        known = self._found.get((new.severity, new.check), new._replace(times=0))
        self._found[new.severity, new.check] = known._replace(times=known.times + new.times)

    @property
    def findings(self) -> list[Finding]:
        """All that was found, errors first."""
        return [finding for kind in (ERROR, WARNING, REPAIRED, NOTE) for finding in self.of(kind)]

    def of(self, severity: str) -> list[Finding]:
        """Return what was found of one severity, in the order of finding."""
        return [finding for finding in self._found.values() if finding.severity == severity]

    def raise_if_wrong(self) -> None:
        """Stop at the first error.

        Raises:
            UserError: There is one; it says how many more there are.
        """
        if self.of(ERROR):
            self._refuse(*self.of(ERROR))

    def _refuse(self, first: Finding, *others: Finding) -> NoReturn:
        total = first.times + sum(other.times for other in others)
        more = f" ({total} errors in all: tools/check_dataset.py lists them.)" if total > 1 else ""
        raise UserError(first.example + more)

    def sentences(self) -> list[str]:
        """For a log: one sentence per data set, the warnings, and what was repaired."""
        return self.lines + [
            f"{name}: {finding.example}{f' ({finding.times} of this kind.)' if finding.times > 1 else ''}"
            for severity, name in ((WARNING, "Warning"), (REPAIRED, "Repaired"))
            for finding in self.of(severity)
        ]

    def pick(self, items: Sequence[T]) -> list[T]:
        """Take as many items as are to be opened, evenly spread."""
        return evenly_spread(items, len(items) if self.num_opened is None else self.num_opened)

    def follow(self, items: Sequence[T], what: str) -> Iterable[T]:
        """Go through items, showing progress where the caller wants it."""
        return self._follow(items, what) if self._follow else items
