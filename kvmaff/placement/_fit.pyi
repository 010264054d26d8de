from collections.abc import Sequence

__all__ = ["fit_host"]

def fit_host(
    vcpus: int,
    unit: int,
    per_core: int,
    whole: bool,
    nodes: int,
    cores: int,
    node: bytes,
    group: bytes,
    total: bytes,
    free: bytes,
    distance: bytes,
    near: bytes,
    cap: bytes,
    wide: bytes,
    accept: bytes,
    sizes: Sequence[int] = (),
    need: bytes = b"",
    have: bytes = b"",
    steps: int = ...,
) -> tuple[list[tuple[int, int]], list[int], int, tuple[int, int, int, int], bool] | tuple[()] | None: ...
