from collections.abc import Iterable

__all__ = ["fit_node"]

def fit_node(
    vcpus: int,
    unit: int,
    per_core: int,
    whole: bool,
    groups: Iterable[int],
    totals: Iterable[int],
    frees: Iterable[int],
) -> tuple[list[int], tuple[int, int, int, int]] | None: ...
