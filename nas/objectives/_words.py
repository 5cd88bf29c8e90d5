"""Names of metrics, measures and costs, as one writes them in a sentence."""


def words(name: str) -> str:
    """A name as one writes it in a sentence: `words("linear_cka")` is "linear CKA"."""
    return " ".join(_SPELLINGS.get(part, part) for part in name.split("_"))


_SPELLINGS = {
    "auroc": "AUROC",
    "cka": "CKA",
    "flops": "FLOPs",
    "knn": "kNN",
    "procrustes": "Procrustes",
    "svcca": "SVCCA",
    "pwcca": "PWCCA",
}
