"""Named runs, one a file: `nas/experiments/<name>.py` holds `EXPERIMENT`, and its docstring says what it shows."""

import ast
import importlib
import pkgutil
from pathlib import Path
from typing import Any

from nas.configuration import ConfigurationError, nearest


def experiment_names() -> list[str]:
    """The experiments there are: the files of this folder that do not start with `_`."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def load_experiment(name: str) -> Any:
    """The experiment called `name`.

    Raises:
        ConfigurationError: there is none; names the nearest one and all there are.
    """
    if name not in experiment_names():
        raise ConfigurationError(f"unknown experiment {name}; {nearest(name, experiment_names())}")
    return importlib.import_module(f"{__name__}.{name}").EXPERIMENT


def summary(name: str) -> str:
    """The first line of an experiment's docstring; read without importing it, so that a list costs nothing."""
    for folder in __path__:
        path = Path(folder) / f"{name}.py"
        if path.is_file():
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            return text.partition("\n")[0]
    raise ConfigurationError(f"unknown experiment {name}; {nearest(name, experiment_names())}")
