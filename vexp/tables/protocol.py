"""How our protocol differs from that of a published number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vexp.sweeps.points import Point
from vexp.sweeps.table import Column
from vexp.tables.cells import Results
from vexp.tables.source_keys import translated

if TYPE_CHECKING:
    from vexp.tables.reference import Reference, ReferenceRow


def differences(
    found: Reference, printed: ReferenceRow, column: Column, point: Point, results: Results
) -> tuple[str, ...]:
    """What of the published protocol does not hold for the runs of one row; empty: all of it."""
    return tuple(dict.fromkeys(_differences(found, printed, column, point, results)))


def _differences(
    found: Reference, printed: ReferenceRow, column: Column, point: Point, results: Results
) -> Iterator[str]:
    mapped = translated(found, printed)
    for key, wanted in mapped.settings():
        if key == "backbone" and point.run.backbone.name != wanted:
            yield f"backbone {point.run.backbone.name}, published {wanted}"
    for what in mapped.pending:
        name = "+".join(sorted({d.name for d in point.run.mix.datasets.values()}))
        yield f"{what} in the paper, {name} here"
    measured = results.get(point.identity.hash)
    decoding = measured.decoding.get(column.benchmark or column.evaluator) if measured else None
    if decoding and found.protocol:
        ours, theirs = decoding.startswith("greedy"), "greedy" in found.protocol
        if ours != theirs:
            yield f"decoding {decoding}, published {found.protocol}"
