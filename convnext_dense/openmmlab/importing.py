"""Changes a module when it is imported, so that importing this package imports none of the modules that it changes."""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


class ChangingFinder(MetaPathFinder):
    """Finds one module as Python does, and calls a function with it after it is executed.

    Args:
        name: Full name of the module.
        change: The function; it must not change a module twice.
    """

    def __init__(self, name: str, change: Callable[[Any], None]) -> None:
        self.name = name
        self.change = change

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the usual spec with a loader that calls ``change`` at the end; ``None`` for any other name."""
        spec = PathFinder.find_spec(fullname, path) if fullname == self.name else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_change(module: ModuleType) -> None:
                execute(module)
                self.change(module)

            spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec


def change_on_import(name: str, change: Callable[[Any], None]) -> None:
    """Call ``change`` with a module now if it is imported, else when it will be.

    This holds in this process and in those that it starts. This call imports nothing; a second call changes nothing.
    """
    if name in sys.modules:
        change(sys.modules[name])
    elif not any(isinstance(finder, ChangingFinder) and finder.name == name for finder in sys.meta_path):
        sys.meta_path.insert(0, ChangingFinder(name, change))
