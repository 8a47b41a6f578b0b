"""`vexp fetch` against a hub on this machine, and what its library does with the folder offline."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fetch.server import COMMIT, Hub
from tests.tiny import SMALL
from vexp.fetch import manifest

ROOT = Path(__file__).parents[2]
MODEL = "me/mine"
CUT = "model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, bytes]:
    """A model as it is published, with what is never wanted beside it."""
    folder = tmp_path_factory.mktemp("model")
    SMALL.load().save(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    return files | {
        "modeling_mine.py": b"raise SystemExit('code was run')",
        "pytorch_model.bin": b"pickle",
        "original/consolidated.00.pth": b"pickle",
        "README.md": b"# mine",
    }


@pytest.fixture
def hub(saved):
    asked = {
        "README.md": b"---\nconfigs: []\n---\n",
        "data/test-00000-of-00001.parquet": b"PAR1 questions PAR1",
        "asked.py": b"raise SystemExit('code was run')",
        "index.pkl": b"pickle",
    }
    hub = Hub({f"models/{MODEL}": saved, "datasets/me/asked": asked})
    server = hub.start()
    yield hub
    server.shutdown()
    server.server_close()


@pytest.fixture
def lmms(tmp_path) -> Path:
    """A place on the path with a package that has the task files of lmms-eval, and never runs."""
    tasks = tmp_path / "site" / "lmms_eval" / "tasks"
    (tasks / "pope").mkdir(parents=True)
    (tasks.parent / "__init__.py").write_text("raise SystemExit('lmms-eval was imported')")
    (tasks / "pope" / "_base_yaml").write_text("dataset_path: me/other\ntest_split: test\n")
    (tasks / "pope" / "pope.yaml").write_text(
        "include: _base_yaml\ntask: 'pope'\ndataset_path: me/asked\n"
        "dataset_kwargs: {token: True}\nprocess_docs: !function utils.process\n"
    )
    return tasks.parents[1]


def environment(hub: Hub, home: Path, path: Path | None = None, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    paths = [str(ROOT), *([str(path)] if path else [])]
    return kept | {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(home / "user"),
        "PYTHONPATH": os.pathsep.join(paths),
        **more,
    }


def vexp(hub: Hub, home: Path, *arguments: object, path: Path | None = None, **more: str):
    command = [sys.executable, "-m", "vexp", *map(str, arguments)]
    return subprocess.run(
        command, cwd=home, env=environment(hub, home, path, **more), capture_output=True, text=True
    )


CONFIG = ("backbone=qwen2_5_vl_3b", f"backbone.path={MODEL}")
POPE = "+evaluator.pope={name: lmms_eval, benchmark: pope}"


def fetch(hub: Hub, home: Path, *arguments: object, **more):
    return vexp(hub, home, "fetch", *CONFIG, *arguments, "--to", "out", **more)


def said(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def check(hub: Hub, home: Path) -> subprocess.CompletedProcess[str]:
    return vexp(hub, home, "fetch", "--check", "out", HF_ENDPOINT="http://127.0.0.1:9")


def test_a_folder_has_what_a_config_reads_and_a_manifest_of_it(hub, saved, lmms, tmp_path):
    done = fetch(hub, tmp_path, POPE, path=lmms)
    assert done.returncode == 0, said(done)
    written = json.loads((tmp_path / "out" / manifest.MANIFEST).read_text())
    wanted = {name for name in saved if name.endswith((".json", ".jinja", ".txt", ".safetensors"))}
    snapshot = f"hub/models--me--mine/snapshots/{COMMIT}"
    data = f"hub/datasets--me--asked/snapshots/{COMMIT}"
    rows = {row["path"]: row for row in written["files"]}
    assert set(rows) == {f"{snapshot}/{name}" for name in wanted} | {
        f"{data}/README.md", f"{data}/data/test-00000-of-00001.parquet",
    }  # fmt: skip
    for path, row in rows.items():
        content = (tmp_path / "out" / path).read_bytes()
        assert (row["bytes"], row["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
        assert row["revision"] == COMMIT
    weights = rows[f"{snapshot}/{CUT}"]
    assert weights["repository"] == MODEL
    assert weights["source"] == f"{hub.address}/{MODEL}/resolve/{COMMIT}/{CUT}"
    by = {held["repository"]: (held["kind"], held["by"]) for held in written["repositories"]}
    assert by == {MODEL: ("model", ["backbone"]), "me/asked": ("dataset", ["evaluator.pope"])}
    assert not {name for _, name in hub.asked if name.endswith((".py", ".pkl", ".bin", ".pth"))}
    assert not list((tmp_path / "out").glob(manifest.UNFINISHED))
    assert "HF_HOME=" in done.stdout
    checked = check(hub, tmp_path)
    assert checked.returncode == 0, said(checked)
    assert f"{len(rows)} files" in checked.stdout


def test_offline_the_folder_is_all_that_a_run_needs(hub, lmms, tmp_path):
    """Without a resolver of ours: the hub's own variables point at the folder."""
    assert fetch(hub, tmp_path, POPE, path=lmms).returncode == 0
    asked = sum(hub.asked.values())
    offline = {"HF_HOME": str(tmp_path / "out"), "HF_HUB_OFFLINE": "1"}
    config = [*CONFIG, "backbone.min_pixels=784", "backbone.max_pixels=50176", "stages=[]",
              "evaluator.heldout.size=2", "rollout.max_response_length=4"]  # fmt: skip
    ran = vexp(hub, tmp_path, "run", *config, **offline)
    assert ran.returncode == 0, said(ran)
    looked = vexp(hub, tmp_path, "doctor", *config, POPE, path=lmms, **offline)
    assert "me/asked" not in looked.stdout, said(looked)
    assert "weights" not in looked.stdout
    assert sum(hub.asked.values()) == asked, "the hub was asked"
    code = (
        "from vexp.bridge.tasks import _data\n"
        "print(_data('pope', {'dataset_path': 'me/asked', 'dataset_kwargs': {'token': True}}, ''))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment(hub, tmp_path, **offline),
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    snapshot = tmp_path / "out" / "hub" / "datasets--me--asked" / "snapshots" / COMMIT
    assert eval(found) == {"dataset_path": str(snapshot), "dataset_kwargs": {}}


def test_a_folder_is_filled_for_several_configs(hub, lmms, tmp_path):
    assert fetch(hub, tmp_path).returncode == 0
    before = hub.asked["GET", CUT]
    assert fetch(hub, tmp_path, POPE, path=lmms).returncode == 0
    assert hub.asked["GET", CUT] == before == 1, "what is there is not downloaded again"
    held = manifest.read(tmp_path / "out").repositories
    assert {one.repository for one in held} == {MODEL, "me/asked"}
    assert check(hub, tmp_path).returncode == 0


def test_a_sweep_is_fetched_whole(hub, saved, lmms, tmp_path):
    hub.repositories["models/me/second"] = saved
    (tmp_path / "mine.yaml").write_text(
        "base: [backbone=qwen2_5_vl_3b]\nevaluation:\n"
        "  pope: {name: lmms_eval, benchmark: pope}\n"
        "rows: {one: [backbone.path=me/mine], two: [backbone.path=me/second]}\nseeds: [1, 2]\n"
    )
    found = vexp(hub, tmp_path, "fetch", "mine.yaml", "--dry-run", "--json", path=lmms)
    assert found.returncode == 0, said(found)
    rows = json.loads(found.stdout)
    assert {row["repository"] for row in rows} == {MODEL, "me/second", "me/asked"}
    model = next(row for row in rows if row["repository"] == MODEL)
    assert model["files"][CUT] == len(saved[CUT])
    assert model["bytes"] == model["bytes_left"] == sum(model["files"].values())
    assert not hub.asked, "a dry run downloads nothing"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.yaml", "site"]


def test_a_dry_run_counts_what_is_left(hub, tmp_path):
    assert fetch(hub, tmp_path).returncode == 0
    (row,) = json.loads(fetch(hub, tmp_path, "--dry-run", "--json").stdout)
    assert row["bytes_left"] == 0
    text = said(fetch(hub, tmp_path, "--dry-run"))
    assert CUT in text
    assert "to fetch: 0 B" in text


def test_a_connection_that_breaks_is_taken_up_where_it_broke(hub, lmms, tmp_path):
    """To a part of 10 MiB, which is what the hub's library writes at once."""
    part, path = 10 * 2**20, "data/test-00000-of-00001.parquet"
    hub.repositories["datasets/me/asked"][path] = os.urandom(3 * part)
    hub.cut[path] = [part + 1000, 2 * part + 1000]
    done = fetch(hub, tmp_path, POPE, path=lmms)
    assert done.returncode == 0, said(done)
    assert hub.ranges == [f"bytes={part}-", f"bytes={2 * part}-"]
    assert check(hub, tmp_path).returncode == 0


def test_a_half_done_fetch_is_never_whole_and_goes_on(hub, lmms, tmp_path):
    hub.failing[CUT] = 500
    failed = fetch(hub, tmp_path, POPE, path=lmms)
    assert failed.returncode == 1
    assert "the hub did not give the model" in said(failed)
    assert not (tmp_path / "out" / manifest.MANIFEST).exists()
    checked = check(hub, tmp_path)
    assert checked.returncode == 1
    assert "has not ended" in said(checked)
    offline = {"HF_HOME": str(tmp_path / "out"), "HF_HUB_OFFLINE": "1"}
    looked = vexp(hub, tmp_path, "doctor", *CONFIG, POPE, path=lmms, **offline)
    assert looked.returncode == 1
    assert "the weights of me/mine are not on this machine" in said(looked)
    hub.failing.clear()
    got = hub.asked["GET", "config.json"]
    done = fetch(hub, tmp_path, POPE, path=lmms)
    assert done.returncode == 0, said(done)
    assert hub.asked["GET", "config.json"] == got == 1
    assert check(hub, tmp_path).returncode == 0


def test_half_of_a_dataset_is_missing(hub, lmms, tmp_path):
    hub.failing["data/test-00000-of-00001.parquet"] = 500
    assert fetch(hub, tmp_path, POPE, path=lmms).returncode == 1
    offline = {"HF_HOME": str(tmp_path / "out"), "HF_HUB_OFFLINE": "1"}
    looked = vexp(hub, tmp_path, "doctor", *CONFIG, POPE, path=lmms, **offline)
    assert looked.returncode == 1
    assert "the questions of me/asked are not on this machine" in said(looked)
    assert f"vexp fetch {' '.join(CONFIG)} '{POPE}' --to FOLDER" in said(looked)
    asked = vexp(hub, tmp_path, "doctor", "--online", *CONFIG, POPE, path=lmms)
    assert "the questions of me/asked are not on this machine; the hub has them: 39 B" in said(
        asked
    )
    hub.gated.add("datasets/me/asked")
    asked = vexp(hub, tmp_path, "doctor", "--online", *CONFIG, POPE, path=lmms)
    assert "are not on this machine: the hub gives this dataset only to users" in said(asked)


def test_what_is_not_what_the_hub_says_is_refused(hub, saved, lmms, tmp_path):
    hub.changed = {
        CUT: bytes(reversed(saved[CUT])),
        "config.json": b" " * len(saved["config.json"]),
    }
    failed = fetch(hub, tmp_path)
    assert failed.returncode == 1
    assert "what came is not what the hub says it is: config.json, model.safe" in said(failed)
    assert not (tmp_path / "out" / manifest.MANIFEST).exists()
    hub.changed.clear()
    assert fetch(hub, tmp_path).returncode == 0, "what was wrong is downloaded again"
    snapshot = tmp_path / "out" / "hub" / "models--me--mine" / "snapshots" / COMMIT
    assert (snapshot / CUT).read_bytes() == saved[CUT]


@pytest.mark.parametrize("damage", ["changed", "cut", "gone", "ref"])
def test_a_damaged_folder_is_told(damage, hub, tmp_path):
    assert fetch(hub, tmp_path).returncode == 0
    store = tmp_path / "out" / "hub" / "models--me--mine"
    path = (store / "snapshots" / COMMIT / CUT).resolve()
    content = path.read_bytes()
    if damage == "changed":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "gone":
        path.unlink()
    else:
        (store / "refs" / "main").unlink()
    checked = check(hub, tmp_path)
    assert checked.returncode == 1
    word = {"changed": "another content", "cut": "bytes instead of", "gone": "is missing",
            "ref": "not found by the hub's library"}[damage]  # fmt: skip
    assert word in said(checked)
    mended = fetch(hub, tmp_path)
    assert mended.returncode == 0, said(mended)
    assert check(hub, tmp_path).returncode == 0
    assert path.read_bytes() == content


def test_all_that_cannot_be_had_is_said_at_once(hub, saved, lmms, tmp_path):
    hub.gated.add(f"models/{MODEL}")
    del hub.repositories["datasets/me/asked"]
    failed = fetch(hub, tmp_path, POPE, path=lmms)
    assert failed.returncode == 1
    text = said(failed)
    assert "2 repositories cannot be fetched" in text
    assert "only to users whom its owner admitted" in text
    assert "set HF_TOKEN" in text
    assert "the hub has no dataset 'me/asked'" in text
    assert not (tmp_path / "out").exists(), "nothing is begun"
    missing = fetch(hub, tmp_path, "backbone.revision=v9")
    assert "has no revision 'v9'" in said(missing)


def test_a_token_opens_and_is_never_written(hub, tmp_path):
    hub.gated.add(f"models/{MODEL}")
    done = fetch(hub, tmp_path, HF_TOKEN=hub.token)
    assert done.returncode == 0, said(done)
    assert hub.token not in said(done)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if hub.token.encode() in path.read_bytes()]


def test_offline_nothing_is_asked_and_that_is_said(hub, tmp_path):
    failed = fetch(hub, tmp_path, HF_HUB_OFFLINE="1")
    assert failed.returncode == 1
    assert "keeps the hub from being asked\n  at HF_HUB_OFFLINE" in said(failed)


def test_a_hub_that_is_not_there(hub, tmp_path):
    failed = fetch(hub, tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert failed.returncode == 1
    assert "the hub did not give the model: [Errno 111]" in said(failed)


def test_a_folder_that_cannot_be_written(hub, tmp_path):
    (tmp_path / "out").write_text("a file")
    failed = fetch(hub, tmp_path)
    assert failed.returncode == 1
    assert "this folder cannot be written" in said(failed)
    assert "--to" in said(failed)
    refused = vexp(hub, tmp_path, "fetch", *CONFIG, "--to", "/proc/nowhere")
    assert refused.returncode == 1
    assert "this folder cannot be written" in said(refused)


def test_too_little_room_is_said_before(monkeypatch, tmp_path):
    from vexp.errors import StorageError
    from vexp.fetch import download
    from vexp.hub import File, Listing, Repository

    monkeypatch.setattr(download, "free_bytes", lambda folder: 1000)
    repository = Repository("model", MODEL)
    listing = Listing(repository, COMMIT, (File("config.json", 2000, None, None),))
    with pytest.raises(StorageError, match=r"2.0 kB are to be fetched, and 1.0 kB are free"):
        download.fetch(tmp_path / "out", [listing], {repository: ["backbone"]})
    assert not list((tmp_path / "out").rglob("*.json"))


def test_a_disk_that_fills_up_meanwhile(monkeypatch, tmp_path):
    import huggingface_hub

    from vexp.errors import StorageError
    from vexp.hub import Repository, download

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(StorageError, match="the disk is full; files that are whole are kept"):
        download(Repository("model", MODEL), tmp_path)


def test_without_lmms_eval_its_datasets_cannot_be_told(hub, tmp_path):
    failed = fetch(hub, tmp_path, POPE.replace("pope}", "pope, python: /nowhere/python}"))
    assert failed.returncode == 2
    assert "which dataset the task 'pope' reads" in said(failed)
    assert "at /nowhere/python" in said(failed)


def test_what_is_not_of_the_hub_is_not_fetched(hub, tmp_path):
    done = vexp(hub, tmp_path, "fetch", "experiment=ease", "--to", "out")
    assert done.returncode == 0
    assert "nothing to fetch" in done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what for"),
        (["backbone=qwen2_5_vl_3b"], "name the folder to fill"),
        (["--check", "out", "--to", "out"], "--check FOLDER stands alone"),
        (["--check", "nowhere"], "there is no manifest.json"),
    ],
)
def test_a_command_that_lacks_something(arguments, message, hub, tmp_path):
    failed = vexp(hub, tmp_path, "fetch", *arguments)
    assert failed.returncode in (1, 2)
    assert message in said(failed)


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 1, "files": [{}], "repositories": []}'])
def test_a_damaged_manifest_is_named(content, hub, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / manifest.MANIFEST).write_text(content)
    failed = check(hub, tmp_path)
    assert failed.returncode == 1
    assert "the manifest is damaged" in said(failed)


def test_a_later_manifest_is_left_alone(hub, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / manifest.MANIFEST).write_text('{"format": 2}')
    assert "this manifest has format 2" in said(check(hub, tmp_path))
