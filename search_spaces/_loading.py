"""Spaces by the names of their files."""

import importlib
import pkgutil
from functools import cache
from pathlib import Path

from search_spaces._space import Space


@cache
def space_names() -> tuple[str, ...]:
    """The spaces there are: the files of this folder that do not start with `_`."""
    folder = str(Path(__file__).parent)
    return tuple(sorted(m.name for m in pkgutil.iter_modules([folder]) if not m.name.startswith("_")))


def load_space(name: str) -> type[Space]:
    """The class in the file of that name: "coattention_layers" gives `CoattentionLayers`.

    Raises:
        ValueError: there is no such file; the message lists those there are.
    """
    if name not in space_names():
        raise ValueError(f"no search space is called {name!r}; there are {', '.join(space_names())}")
    module = importlib.import_module(f"search_spaces.{name}")
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Space) and value.__module__ == module.__name__
    ]
    assert len(classes) == 1, f"search_spaces/{name}.py must hold one Space; got {classes}"
    return classes[0]
