"""Exports that are damaged or meant to harm: one message, nothing imported, no code loaded."""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
import zipfile

import pytest

from tests.runs.conftest import PLUGIN, Recorder
from tests.runs.odd import odd_imports
from vexp.cli.main import cli
from vexp.errors import RunError, VexpError
from vexp.runs import trust
from vexp.runs.exchange import export
from vexp.runs.execute import execute
from vexp.runs.imports.exported import import_
from vexp.runs.rows import rows
from vexp.runs.store import RunFolder, RunStore


@pytest.fixture
def exported(stub_run, store, tmp_path):
    """A folder with the export of one run."""
    execute(stub_run("seed=1"), reporter=Recorder(), store=store)
    export(store, tmp_path / "exported")
    return tmp_path / "exported"


@pytest.fixture
def other(tmp_path):
    return RunStore(tmp_path / "elsewhere" / "results")


def only(folder, pattern):
    (path,) = folder.glob(pattern)
    return path


def clear_runs(root):
    shutil.rmtree(root, ignore_errors=True)


def _shorten(content):
    """Leave what an import looks into; the rest is checked where it is read."""
    content["record"] |= {"config": {"plugins": ["x.py"]}, "science": {}}
    switches = [{"step": 1, "from": {}, "to": {}, "at": "now"}]
    content["provenance"] = {"switches": switches}
    for results in content["evaluations"].values():
        results["protocol"] = {}
        results["metrics"] = dict(list(results["metrics"].items())[:1])


@pytest.mark.parametrize("file", ["export.json", "runs/*.json"])
def test_whatever_is_wrong_with_a_field_is_one_message(exported, other, file):
    path = only(exported, file)
    content = json.loads(path.read_text())
    if file != "export.json":
        _shorten(content)

    def importing(text):
        path.write_text(text)
        import_(other, exported)

    assert odd_imports(content, importing, other.root, clear_runs) > 20


@pytest.mark.parametrize(
    "line",
    ["", "a", "a,b,c,1.0,ok,5,6", "a,b,c,nan,ok,5", "a,b,c,1.0,ok,x", "a,b,c,inf,ok,5",
     "a,b,c,1.0,ok," + "9" * 5000, '"a,b,c', "x" * 2_000_000 + ",b,c,1.0,ok,5"],
)  # fmt: skip
def test_a_damaged_line_of_verdicts_is_named(exported, other, line):
    path = only(exported, "verdicts/*/*.csv")
    lines = path.read_text().split("\n")
    path.write_text("\n".join([*lines[:2], line, *lines[3:]]))
    with pytest.raises(RunError, match=r"verdicts/.*(line \d|verdict file has|is of 6 samples)"):
        import_(other, exported)
    assert not other.root.exists()


@pytest.mark.parametrize("header", ["", "id", "id,id,tag,correct,status,length", "\0"])
def test_a_damaged_head_of_verdicts_is_named(exported, other, header):
    path = only(exported, "verdicts/*/*.csv")
    path.write_text("\n".join([header, *path.read_text().split("\n")[1:]]))
    with pytest.raises(RunError, match="verdicts/"):
        import_(other, exported)


def test_verdicts_that_are_cut_are_refused(exported, other):
    path = only(exported, "verdicts/*/*.csv")
    path.write_text("\n".join(path.read_text().split("\n")[:4]) + "\n")
    with pytest.raises(RunError, match="is of 6 samples, and its verdict file has 3"):
        import_(other, exported)


@pytest.mark.parametrize(
    "change",
    [
        lambda f: os.mkfifo(f / "x") or os.rename(f / "x", f / "export.json"),
        lambda f: (f / "export.json").unlink() or (f / "export.json").symlink_to("/dev/zero"),
        lambda f: (
            (f / "runs").rename(f.with_name("moved"))
            and (f / "runs").symlink_to(f.with_name("moved"))
        ),
        lambda f: (f / "export.json").unlink() or (f / "export.json").mkdir(),
        lambda f: os.truncate(only(f, "runs/*.json"), 1 << 40),
        lambda f: (f / "export.json").write_bytes(b"\xff\xfe"),
        lambda f: (f / "export.json").write_text("[" * 100_000),
    ],
)
def test_folders_that_are_no_plain_export(exported, other, change):
    change(exported)
    with pytest.raises(RunError, match=r"(export|runs/.*)\.json|file of an export"):
        import_(other, exported)
    assert not other.root.exists()


@pytest.mark.parametrize(
    ("section", "message"), [("science", "gives the hash"), ("config", "differ in rl.seed|seed")]
)
def test_a_record_that_contradicts_its_id_is_refused(exported, other, section, message):
    path = only(exported, "runs/*.json")
    content = json.loads(path.read_text())
    content["record"][section]["seed"] = 77
    path.write_text(json.dumps(content))
    with pytest.raises(RunError, match=f"contradicts itself.*({message})"):
        import_(other, exported)
    assert not other.root.exists()


def zipped(path, entries, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def special(mode):
    entry = zipfile.ZipInfo("runs/x.json")
    entry.external_attr = (mode | 0o777) << 16
    return entry


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([("../x", "")], "is a path out of it"),
        ([("/etc/x", "")], "is a path out of it"),
        ([("C:/x", "")], "is a path out of it"),
        ([("runs\\..\\x", "")], "is a path out of it"),
        ([("runs/a\nb", "")], "control characters"),
        ([("export.json", "{}"), ("export.json", "{}")], "'export.json' twice"),
        ([(special(stat.S_IFLNK), "/etc/passwd")], "a link or a device"),
        ([(special(stat.S_IFCHR), "")], "a link or a device"),
        ([(special(stat.S_IFIFO), "")], "a link or a device"),
        ([("bomb", b"0" * (64 << 20))], "would unpack to 67,108,864"),
        ([("export.json", "[1]")], "export.json of this export is damaged"),
        ([("export.json", b"\xff")], "not UTF-8"),
    ],
)
def test_zips_that_are_no_export(other, tmp_path, entries, message):
    with pytest.raises(RunError, match=message) as caught:
        import_(other, zipped(tmp_path / "x.zip", entries))
    assert "x.zip" in str(caught.value) and not other.root.exists()


def test_the_number_of_files_is_bounded(other, tmp_path, monkeypatch):
    monkeypatch.setattr("vexp.runs.imports.archive.MAX_FILES", 10)
    entries = [(f"{number}/", "") for number in range(11)]
    with pytest.raises(RunError, match="this zip has 11 files; at most 10 are read"):
        import_(other, zipped(tmp_path / "x.zip", entries))


def test_every_byte_of_a_zip_may_be_wrong(exported, other, store, tmp_path):
    path = tmp_path / "x.zip"
    export(store, path)
    content = path.read_bytes()
    refused = 0
    for place in range(0, len(content), max(1, len(content) // 100)):
        changed = bytearray(content)
        changed[place] ^= 0xFF
        path.write_bytes(changed)
        try:
            import_(other, path)
        except RunError:
            refused += 1
            assert not other.root.exists()
        clear_runs(other.root)
    assert refused > 40
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError):
        import_(other, path)


def test_declared_sizes_are_not_believed(other, tmp_path):
    """A file that is larger than the list says is not read further than that."""
    path = zipped(tmp_path / "x.zip", [("export.json", b"0" * (8 << 20))])
    content = path.read_bytes().replace((8 << 20).to_bytes(4, "little"), (9).to_bytes(4, "little"))
    path.write_bytes(content)
    with pytest.raises(RunError, match="damaged"):
        import_(other, path)


def with_code(exported, name, text="raise SystemExit('this code ran')"):
    """The export, now of a run that names code which must not run."""
    code = exported / name
    code.write_text(text)
    path = only(exported, "runs/*.json")
    content = json.loads(path.read_text())
    content["record"]["config"]["plugins"] += [str(code)]
    content["record"]["trusted"] = trust.digests((str(PLUGIN), str(code)))
    path.write_text(json.dumps(content))
    return code


def test_code_of_an_imported_run_is_not_loaded(exported, other, capsys):
    code = with_code(exported, "evil.py")
    report = import_(other, exported)
    (run,) = other.runs()
    assert report.code == {run.name: [str(PLUGIN), str(code)]} and not report.trusted
    with pytest.raises(RunError, match="was imported, and code that it names is not loaded") as e:
        run.spec()
    assert str(code) in str(e.value) and f"vexp eval {run.name} --trust" in str(e.value)
    assert [row.run for row in rows(other)]
    results = ["--results-dir", str(other.root)]
    for arguments in (["eval", run.hash, *results], ["show", run.hash, *results],
                      ["tokens", run.hash, *results], ["clean", *results],
                      ["diff", run.hash, run.hash, *results],
                      ["_run", str(run.folder)]):  # fmt: skip
        try:
            cli.main(arguments, standalone_mode=False)
        except VexpError as error:
            assert "this code ran" not in str(error)


def test_trusted_code_is_loaded_as_long_as_it_does_not_change(exported, other):
    code = with_code(exported, "mine.py", "LOADED = True\n")
    import_(other, exported)
    report = import_(other, exported, trusting=True)  # also later
    (run,) = other.runs()
    assert report.trusted == {run.name: [str(PLUGIN), str(code)]} and not report.code
    trust.check(run.folder, RunFolder(run.folder).record, "")
    code.write_text("raise SystemExit('another code ran')\n")
    with pytest.raises(RunError, match="changed since it was trusted"):
        RunFolder(run.folder).spec()
    code.unlink()
    with pytest.raises(RunError, match="not loaded unasked"):
        RunFolder(run.folder).spec()


def test_a_run_folder_of_another_user_is_foreign(stub_run, store, monkeypatch):
    done = execute(stub_run("seed=1"), reporter=Recorder(), store=store)
    assert done.run.spec() is not None
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(RunError, match="belongs to another user"):
        done.run.spec()
    assert done.run.spec(trusting=True) is not None


def test_an_export_that_never_ends_is_not_waited_for(exported, other):
    os.mkfifo(exported / "runs" / "pipe.json")  # nothing names it
    began = time.monotonic()
    assert len(import_(other, exported).runs) == 1
    assert time.monotonic() - began < 5
