"""The entry point: one command from a name to a report.

    python nas/run_search.py                             the default experiment, easy_vqa_search
    python nas/run_search.py smoke training.epochs=2     another one, with a field changed
    python nas/run_search.py runs/<run>/config.yaml      a run once more, or a configuration edited by hand
    python nas/run_search.py --resume latest             go on with a run that was cut short

`crosstie search` is the same. Works from any folder, installed, and under `ray job submit --working-dir .`.
"""

import importlib.util
import os
import sys

# Python puts the folder of a script first on sys.path. Our packages live one up, and in here lies a `statistics` that
# is not Python's: the parent takes its place, before anything else is imported.
_here = os.path.dirname(os.path.abspath(__file__))
if sys.path and sys.path[0] and os.path.abspath(sys.path[0]) == _here:
    sys.path[0] = os.path.dirname(_here)

for _package in ("yaml", "torch", "ray"):
    if importlib.util.find_spec(_package) is None:
        print(
            f"error: {sys.executable} has no package {_package}; `make .venv` installs all that crosstie needs: then "
            "call .venv/bin/python, or put .venv/bin on the PATH",
            file=sys.stderr,
        )
        sys.exit(2)

import importlib
import logging
from argparse import Namespace
from pathlib import Path
from typing import Any

from cluster.connect import connect, default_storage_root
from nas import cli
from nas.configuration import ConfigurationError, load, override, show
from nas.experiments import experiment_names, load_experiment, summary
from nas.run_folder import RunFolder, find_run

log = logging.getLogger("nas.run_search")

DEFAULT_EXPERIMENT = "easy_vqa_search"


def main(arguments: list[str] | None = None) -> int:
    """Runs `python nas/run_search.py <arguments>`; gives back the exit code."""
    return cli.run(_search, cli.search_parser(DEFAULT_EXPERIMENT), arguments)


def _search(asked: Namespace) -> None:
    """What was asked for: a list, the settings, a plan, or the run itself."""
    if asked.list:
        print("\n".join(f"{name:<20} {summary(name)}" for name in experiment_names()))
        return
    root = Path(asked.runs) if asked.runs else default_storage_root()
    words = [word for word in asked.words if "=" not in word]
    overrides = [word for word in asked.words if "=" in word]
    if len(words) > 1:
        raise ConfigurationError(f"one experiment a run; got {' and '.join(words)}")
    if asked.resume:
        _resume(root, asked.resume, words[0] if words else None, overrides)
        return

    name, experiment = _experiment(words[0] if words else DEFAULT_EXPERIMENT)
    experiment = override(experiment, overrides)
    if asked.show:
        print(show(experiment), end="")
    elif asked.dry_run:
        print(_workload(experiment).plan(experiment))
    else:
        _workload(experiment).check(experiment)  # a mistake is found before a folder is made and Ray started
        seed = getattr(experiment, "seed", None)
        with RunFolder.create(root, name, experiment, sys.argv, seed=seed) as folder:
            _run(experiment, folder, is_resumed=False)


def _resume(root: Path, run: str, experiment_name: str | None, overrides: list[str]) -> None:
    if overrides:
        raise ConfigurationError(
            f"a resumed run keeps its settings; leave out {' '.join(overrides)}, or start a new run with them"
        )
    path = find_run(root, run, experiment_name=experiment_name)
    with RunFolder.open(path, command=sys.argv, experiment_name=experiment_name) as folder:
        _run(folder.experiment(), folder, is_resumed=True)


def _run(experiment: Any, folder: RunFolder, *, is_resumed: bool) -> None:
    """The workload, with a Ray under it, in its folder."""
    workload = _workload(experiment)
    log.info(
        "%s %s in %s", "going on with" if is_resumed else "starting", folder.experiment_name, folder.path
    )
    try:
        with connect():
            workload.run(experiment, folder, resume=is_resumed)
    except BaseException as error:
        log.debug("the run ended early", exc_info=error)
        if cli.is_a_persons_mistake(error) and not is_resumed and not folder.trials_log.exists():
            folder.discard()  # nothing was tried yet: no dataset, say
            raise
        error.add_note(f"to go on: {cli.this_command()} --resume {cli.short_path(folder.path)}")
        raise
    folder.mark_finished()


def _experiment(word: str) -> tuple[str, Any]:
    """The experiment that `word` names, and the name for its run folder."""
    if word.endswith((".yaml", ".yml")):
        path = Path(word)
        experiment = load(path)
        return getattr(experiment, "name", path.stem), experiment
    return word, load_experiment(word)


def _workload(experiment: Any) -> Any:
    return importlib.import_module(f"nas.workloads.{experiment.workload}")


if __name__ == "__main__":
    sys.exit(main())
