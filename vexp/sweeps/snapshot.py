"""The code that runs is the code that was submitted: a copy of it, named by its content.

code/<hash>/vexp/        the package with the conf files that it ships
code/<hash>/plugins/     the plugin files of the sweep's runs, by file name
code/<hash>/code.json    where it came from: version, commit, whether there were changes
code/<hash>/diff.patch   the changes, if there were any
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from vexp import __version__
from vexp.files import new_folder, write_json, write_text
from vexp.paths import expanded, shipped
from vexp.runs import provenance

_PACKAGE = Path(__file__).resolve().parents[1]


def take(home: Path, plugins: Iterable[Path]) -> Path:
    """The folder below `home` that holds this code; one with the same content is used again.

    Raises:
        StorageError: if it cannot be written.
    """
    wanted = dict(_contents(_PACKAGE, plugins))
    digest = hashlib.sha256()
    for name, path in sorted(wanted.items()):
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    target = home / digest.hexdigest()[:12]
    if target.is_dir():
        return target
    with new_folder(target) as aside:
        for name, path in wanted.items():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, aside / name)
        origin, diff = provenance.git_state(_PACKAGE)
        write_json(
            aside / provenance.SUBMITTED,
            {"vexp": __version__, "from": str(_PACKAGE), "sha256": digest.hexdigest(), **origin},
        )
        if diff:
            write_text(aside / "diff.patch", diff)
    return target


def _contents(package: Path, plugins: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    for path in package.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield f"vexp/{path.relative_to(package)}", path
    for path in shipped("conf").rglob("*.yaml"):  # jobs of a search compose runs
        yield f"vexp/_shipped/conf/{path.relative_to(shipped('conf'))}", path
    for plugin in plugins:
        yield f"plugins/{plugin.name}", expanded(plugin).resolve()
