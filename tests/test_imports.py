"""Imports go one way, data -> model -> search_spaces -> nas, and Ray comes in by its doors only."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

MAY_IMPORT = {
    "data": set(),
    "model": {"data"},
    "search_spaces": {"data", "model"},
    "nas": {"data", "model", "search_spaces", "cluster"},
    "cluster": set(),
}

# Where Ray may be imported; in the files of LAZILY only inside functions, so that the rest works without Ray.
LAZILY = {"data/prepare.py", "data/stream.py", "model/training/distributed.py", "cluster/connect.py"}
FREELY = "nas/search/"

FILES = sorted(str(p.relative_to(ROOT)) for package in MAY_IMPORT for p in (ROOT / package).rglob("*.py"))


def _imports(tree: ast.AST, is_lazy: bool = False) -> Iterator[tuple[str, bool]]:
    """Every imported module, and whether the import happens only when a function is called."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, is_lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            yield node.module or "", is_lazy
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from ((name, True) for name, _ in _imports(node))
        else:
            yield from _imports(node, is_lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def _broken_rules(file: str, source: str) -> list[str]:
    package = file.partition("/")[0]
    broken = []
    for module, is_lazy in _imports(ast.parse(source)):
        top = module.partition(".")[0]
        if top in MAY_IMPORT and top != package and top not in MAY_IMPORT[package]:
            broken.append(f"{package} must not import {module}")
        if top == "ray" and not file.startswith(FREELY):
            if file not in LAZILY:
                broken.append(f"{module} is imported outside Ray's doors")
            elif not is_lazy:
                broken.append(f"{module} is imported with the file; import it where it is used")
    return broken


@pytest.mark.parametrize("file", FILES)
def test_imports_go_one_way(file):
    assert _broken_rules(file, (ROOT / file).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("file", "source", "count"),
    [
        ("data/batch.py", "import model", 1),
        ("model/vilbert.py", "from data.batch import ImageTextBatch", 0),
        ("model/vilbert.py", "def f():\n    from search_spaces import x", 1),
        ("data/stream.py", "def f():\n    import ray.data", 0),
        ("data/stream.py", "import ray.data", 1),
        ("data/stream.py", "if TYPE_CHECKING:\n    import ray.data", 0),
        ("data/shards.py", "def f():\n    import ray", 1),
        ("nas/search/tuner.py", "import ray", 0),
        ("nas/report/page.py", "from ray import tune", 1),
        ("cluster/connect.py", "import nas", 1),
    ],
)
def test_the_rules_themselves(file, source, count):
    assert len(_broken_rules(file, source)) == count
