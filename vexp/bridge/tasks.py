"""Task files for lmms-eval: its own or ours, with the place of the data written in.

lmms-eval expands no variable in a task file and looks for data relative to the working directory.
So each task that is run is written anew, as a file that includes the one it is made from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vexp.errors import DataError, Problem, RunError, suggest
from vexp.evaluator.benchmarks import OWN, TASKS
from vexp.files import write_text

_MARK = "LMMS_EVAL/"  # in our task files: the folder of lmms-eval's
_BUILDERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json"}


def write(home: Path, sources: Mapping[str, str], data: str, *, own_instruction: bool) -> list[str]:
    """Write the tasks into `home` and return their names.

    `sources` are task names with `own`, or a file below lmms-eval's tasks; `data` is a file or a
    folder, or empty for the hub's copy. With `own_instruction`, our tasks end with their own
    instruction how to answer.

    Raises:
        DataError: there are no data where they should be.
    """
    for name, source in sources.items():
        below = _ours(home, name) if source == OWN else shipped() / source
        keys: dict[str, Any] = {"include": str(below), "task": name}
        keys |= _data(name, _plain(below), data)
        if source == OWN and not own_instruction and "post_prompt" in below.read_text("utf-8"):
            keys["lmms_eval_specific_kwargs"] = {"default": {"post_prompt": ""}}
        _dump(home / name / f"{name}.yaml", keys)
    return list(sources)


def shipped() -> Path:
    """The folder of lmms-eval's own tasks."""
    import lmms_eval.tasks

    return Path(lmms_eval.tasks.__file__).parent


def find(name: str, folder: str) -> str:
    """The file of a task that the catalogue does not have, in `folder` or among lmms-eval's.

    Raises:
        RunError: there is none of that name, or it is a group of tasks.
    """
    from lmms_eval.tasks import TaskManager

    # Reading the names of all of lmms-eval's two thousand tasks takes seconds: your own come first.
    own = TaskManager("ERROR", include_path=folder, include_defaults=False) if folder else None
    known = own.task_index if own else {}
    if name not in known:
        known = {**TaskManager("ERROR").task_index, **known}
    found = known.get(name)
    if found is None or found["type"] != "task":
        raise RunError(
            f"lmms-eval has no task {name!r}" if found is None else f"{name!r} is several tasks",
            where="task",
            accepted=suggest(name, [n for n, entry in known.items() if entry["type"] == "task"]),
            remedy="name one task; tasks of your own: tasks_dir=FOLDER",
        )
    return str(found["yaml_path"])


def _ours(home: Path, name: str) -> Path:
    """A copy of our task file in which lmms-eval's folder is written out."""
    text = (TASKS / f"{name}.yaml").read_text("utf-8")
    target = home / name / "source" / f"{name}_source"  # not .yaml: lmms-eval would list it
    write_text(target, text.replace(_MARK, f"{shipped()}/"))
    return target


def _plain(path: Path) -> Mapping[str, Any]:
    from lmms_eval.utils import load_yaml_config

    found: Mapping[str, Any] = load_yaml_config(yaml_path=str(path), mode="simple")
    return found


def _data(name: str, config: Mapping[str, Any], data: str) -> dict[str, Any]:
    """Where the questions are. A token for the hub is never asked for: there may be none."""
    options = {k: v for k, v in (config.get("dataset_kwargs") or {}).items() if k != "token"}
    if not data:
        if not config.get("dataset_path"):
            raise DataError(
                f"where the questions of {name!r} are has to be said: lmms-eval does not have them",
                where="data",
                remedy="set data= to the folder with the published files",
            )
        kept = {"dataset_kwargs": options} if config.get("dataset_kwargs") else {}
        return kept | _from_cache(str(config["dataset_path"]), options)
    path = Path(data)
    if not path.exists():
        raise DataError(f"there is no file or folder {data!r}", where="data")
    if path.is_dir() and config.get("dataset_path"):  # a copy of the hub's folder
        loaded = (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file()
        extra = {"load_from_disk": True} if loaded else {}
        return {"dataset_path": str(path), "dataset_kwargs": {**options, **extra}}
    files = [path] if path.is_file() else _files(path)
    (kind,) = {_BUILDERS[file.suffix] for file in files}
    split = config.get("test_split") or config.get("validation_split") or "test"
    listed = {split: [str(file) for file in files]}
    return {
        "dataset_path": kind,
        "dataset_name": None,
        "dataset_kwargs": {**options, "data_files": listed},
    }


def _from_cache(name: str, options: Mapping[str, Any]) -> dict[str, str]:
    """Offline, datasets knows what it has prepared before, and not the hub's own cache."""
    from huggingface_hub import constants

    from vexp.hub import Repository, is_name, whole

    if not constants.HF_HUB_OFFLINE or not is_name(name):
        return {}
    folder = whole(Repository("dataset", name, str(options.get("revision") or "main")))
    return {"dataset_path": str(folder)} if folder else {}


def _files(folder: Path) -> list[Path]:
    """The files with questions: those called test, or else all, of one kind.

    Raises:
        DataError: there are none, or of several kinds.
    """
    every = sorted(path for path in folder.rglob("*") if path.suffix in _BUILDERS)
    found = [path for path in every if re.search(r"(^|[^a-z])test", path.name.lower())] or every
    kinds = {path.suffix for path in found}
    if len(kinds) != 1:
        what = "questions in several formats" if kinds else "no file with questions"
        raise DataError(
            f"there {'are' if kinds else 'is'} {what} here",
            where=str(folder),
            accepted=f"files that end in {', '.join(_BUILDERS)}",
            remedy="set data= to the one file that should count",
        )
    return found


def _dump(path: Path, keys: Mapping[str, Any]) -> None:
    import yaml

    write_text(path, yaml.safe_dump(dict(keys), sort_keys=False))


def missing_data(error: BaseException, config: Mapping[str, Any]) -> Problem | None:
    """What to say when lmms-eval could not load a task's data; None if that is not what it is."""
    causes = list(_causes(error))
    if not any(type(cause).__name__ == "RetryError" for cause in causes):
        return None
    last = causes[-1]
    return Problem(
        f"the questions of {config['task']} could not be loaded: "
        f"{type(last).__name__}: {str(last).splitlines()[0] if str(last) else ''}",
        where=f"dataset {config.get('dataset_path')}",
        remedy="fetch it (`hf download --repo-type dataset NAME`) or set data= to a local copy",
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        attempt = getattr(error, "last_attempt", None)  # tenacity
        error = attempt.exception() if attempt is not None else error.__cause__ or error.__context__
