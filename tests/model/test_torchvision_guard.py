"""The guard lets timm be imported beside any torch, and keeps out of the way of a torchvision that works."""

import subprocess
import sys
from pathlib import Path

import torch

from model.torchvision_guard import operators_are_missing

ROOT = Path(__file__).parents[2]


def test_timm_can_be_imported_after_the_guard() -> None:
    code = "from model import torchvision_guard; import timm; import torchvision; print('imported')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "imported\n", done.stderr


def test_an_extension_that_does_not_load_is_missing(tmp_path: Path) -> None:
    (tmp_path / "_C.so").write_bytes(b"compiled for another torch")
    (tmp_path / "_C.pyi").write_text("")
    assert operators_are_missing(tmp_path)


def test_an_extension_that_loads_is_left_alone(tmp_path: Path) -> None:
    # Any library that loads will do: the operator itself is there already, declared by torchvision or by the guard.
    library = next(Path(torch.__file__).parent.glob("lib/libtorch_cpu.*"))
    (tmp_path / f"_C{library.suffix}").symlink_to(library)
    assert not operators_are_missing(tmp_path)


def test_without_torchvision_nothing_is_missing() -> None:
    assert not operators_are_missing(None)
