"""Lets timm and transformers be imported beside a CPU build of torch.

PyPI's torchvision finds its C++ operators only beside the torch build it was compiled for. Beside another
(a CPU wheel, say) `import torchvision` ends in "operator torchvision::nms does not exist", and takes timm
with it. We use no torchvision operator, so declaring the two schemas that its import refers to is enough.
With a proper torchvision nothing happens here. Import this module before timm or transformers, in every
process.
"""

import importlib.util
from pathlib import Path

import torch


def operators_are_missing(package: Path | None) -> bool:
    """Whether the torchvision in folder `package` (None: there is none) cannot bring its operators into this torch.

    That is so when its C++ extension cannot be loaded, as when it was compiled for another torch, or is not there.
    """
    if package is None:
        return False
    libraries = [path for path in sorted(package.glob("_C.*")) if path.suffix in (".so", ".pyd", ".dylib")]
    for library in libraries:
        try:
            torch.ops.load_library(str(library))
        except OSError:
            return True
    return not hasattr(torch.ops.torchvision, "nms")


def _installed_torchvision() -> Path | None:
    spec = importlib.util.find_spec("torchvision")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _declare_operators() -> torch.library.Library:
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


# The declarations live as long as this object does.
_DECLARED = _declare_operators() if operators_are_missing(_installed_torchvision()) else None
