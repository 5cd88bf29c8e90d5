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


def torchvision_operators_are_missing() -> bool:
    """Whether torchvision is installed but its C++ extension cannot be loaded beside this torch."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    for library in Path(spec.origin).parent.glob("_C*.*"):
        if library.suffix in (".so", ".pyd", ".dylib"):
            try:
                torch.ops.load_library(str(library))
            except OSError:
                return True
            return not hasattr(torch.ops.torchvision, "nms")
    return True


def _declare_operators() -> torch.library.Library:
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


# The declarations live as long as this object does.
_DECLARED = _declare_operators() if torchvision_operators_are_missing() else None
