"""The results that a sweep's table is made of, read from run folders; nothing is computed."""

from __future__ import annotations

from collections.abc import Iterable

from vexp.runs import evaluations
from vexp.runs.store import RunFolder, RunStore
from vexp.sweeps.points import Training
from vexp.tables.frame import Results, Score


def collect(declared: Iterable[Training], store: RunStore) -> Results:
    """The finished evaluations that the declared runs call for, and no others.

    An evaluation counts only under the key of its checkpoint and of the protocol that the sweep
    asks for now; one of another protocol is as good as missing.

    Raises:
        RunError: for results that are damaged or of a newer format.
    """
    return {
        training.identity.hash: _of_run(training, folder)
        for training in declared
        if (folder := store.find(training.identity)) is not None
    }


def _of_run(training: Training, folder: RunFolder) -> dict[str, dict[str, Score]]:
    result = folder.result()
    if result is None:
        return {}
    found: dict[str, dict[str, Score]] = {}
    for unit in evaluations.units(training.run, result["checkpoint_hash"]):
        path = evaluations.find(folder.evaluations_dir, unit.key)
        if path is not None:
            metrics = evaluations.read_results(path)["metrics"]
            found[unit.label] = {
                name: Score(float(entry["value"]), entry.get("stderr"), entry.get("n"))
                for name, entry in metrics.items()
            }
    return found
