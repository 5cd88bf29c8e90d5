"""`crosstie data ...`: what one does with a dataset before anything trains on it.

Each of SUBCOMMANDS takes its own arguments and gives back an exit code. Adding one is a function and a line there.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from data.integrity import Report, check_source, table
from data.sources._source import Source, SourceError, load_source, source_names
from nas.cli import Parser, run
from nas.configuration import override


def main(arguments: list[str]) -> int:
    """Runs `crosstie data <arguments>`; gives back the exit code."""
    parser = Parser(prog="crosstie data", description="Checks datasets and makes them ready to train on.")
    parser.add_argument(
        "subcommand", choices=sorted(SUBCOMMANDS), help="`crosstie data SUBCOMMAND --help` says more"
    )
    subcommand = parser.parse_args(arguments[:1]).subcommand
    return SUBCOMMANDS[subcommand](arguments[1:])


def check(arguments: list[str]) -> int:
    """Reads a whole dataset and reports on it; exit code 1 says that its splits have a problem."""
    parser = source_parser(
        "check",
        "Reads every row and picture of a dataset, writes nothing, and says what is wrong with it; exit code 1: a problem.",
    )
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    reports: list[Report] = []

    def command(asked: argparse.Namespace) -> None:
        source, path, options = asked_source(asked.source, asked.words)
        report = check_source(source, path, seed=asked.seed, options=options)
        print(json.dumps(report.as_dict(), ensure_ascii=False, indent=1) if asked.json else table(report))
        if not any(split.rows for split in report.splits.values()):
            first = next(iter(report.dropped_examples.values()), ("",))[0]
            raise SourceError(
                f"no row of {source.name} at {path} can be used{first and f'; the first: {first}'}"
            )
        reports.append(report)

    return run(command, parser, arguments) or int(any(report.problems for report in reports))


SUBCOMMANDS: dict[str, Callable[[list[str]], int]] = {"check": check}


def source_parser(subcommand: str, description: str) -> Parser:
    """The arguments of every subcommand that reads a source: SOURCE [PATH] [option=value …] [--seed N]."""
    parser = Parser(
        prog=f"crosstie data {subcommand}",
        description=description,
        epilog="The file of a source in data/sources/ says what it reads and which options it has.",
    )
    parser.add_argument("source", help=f"one of: {', '.join(source_names())}")
    parser.add_argument(
        "words",
        nargs="*",
        metavar="path | option=value",
        help="where the dataset lies, and options of the source, as image=file label=verdict",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="decides what is held out where nobody published it (0)"
    )
    return parser


def asked_source(name: str, words: Sequence[str]) -> tuple[Source, str, Any]:
    """The source of that name, the dataset's path ("" where it needs none), and its options.

    Raises SourceError or ConfigurationError for a name, option or value that cannot be, and for a path too many or few.
    """
    source = load_source(name)
    if source.needs_path and (not words or not words[0]):
        raise SourceError(f"source {name} needs the path of its dataset: crosstie data … {name} PATH")
    path, assignments = (words[0], words[1:]) if source.needs_path else ("", words)
    surplus = [word for word in assignments if "=" not in word]
    if surplus:
        takes = "takes one path" if source.needs_path else "takes no path"
        raise SourceError(f"source {name} {takes}, and options as option=value; got {surplus[0]!r}")
    return source, path, override(source.options_class(), assignments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
