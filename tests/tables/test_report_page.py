"""The page: one file, nothing of a run is markup, the same results give the same bytes."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import itertools
import json
import re
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from tests.tables import reported
from tests.tables.reported import HOSTILE, SWEEP, finished_sweep
from vexp.cli.main import cli
from vexp.tables.report.contents import report_of
from vexp.tables.report.page import _json, page

VOID = {"meta", "input", "img", "br", "link"}


class Elements(html.parser.HTMLParser):
    """Elements in order, and the text directly in each."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.found, self.open = [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs), []))
        if tag not in VOID:
            self.open.append(self.found[-1])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open:
            self.open[-1][2].append(data)

    def of(self, tag):
        return [("".join(text), attrs) for name, attrs, text in self.found if name == tag]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a finished sweep, and its page."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, page(report_of(finished_sweep(folder)))


def test_hostile_texts_are_text(made):
    elements = Elements(made[1])
    assert len(elements.of("script")) == 2
    assert not elements.of("img")
    assert not elements.of("b")
    for name, attrs, _ in elements.found:
        assert not [key for key in attrs if key.startswith("on") or key == "style"], name
    (title,) = elements.of("title")
    assert " ".join(title[0].split()) == " ".join(f"Demo {HOSTILE}".split())
    assert HOSTILE in "".join(text for text, _ in elements.of("th"))
    assert "49" not in title[0]


def test_the_data_are_read_back_as_they_are(made):
    elements = Elements(made[1])
    (text,) = [text for text, attrs in elements.of("script") if attrs.get("id") == "data"]
    assert not set(text) & set("<>&\u2028")
    data = json.loads(text)
    assert data["lines"][0].startswith(HOSTILE)
    assert data["questions"][0]["question"] == f"Question 0 {HOSTILE}"
    assert data["latex"].startswith("% Made by")
    assert data["charts"]["curve-reward"]["series"][0]["n"] == 2


@given(
    st.recursive(st.text() | st.integers(), lambda x: st.lists(x) | st.dictionaries(st.text(), x))
)
def test_json_in_a_script_ends_no_script(content):
    text = _json(content)
    assert text.isascii() and not set(text) & set("<>&")
    assert json.loads(text) == content


def test_the_policy_allows_this_script_and_style_and_nothing_else(made):
    elements = Elements(made[1])
    (policy,) = [a["content"] for _, a in elements.of("meta") if "http-equiv" in a]
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        (text,) = [t for t, attrs in elements.of(tag) if attrs.get("type") != "application/json"]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert allowed.pop(directive) == f"'sha256-{digest}'"
    assert allowed == {
        "default-src": "'none'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_the_page_needs_nothing_but_itself(made):
    elements = Elements(made[1])
    assert not elements.of("link")
    for _, attrs, _ in elements.found:
        assert "src" not in attrs and "srcset" not in attrs
        assert attrs.get("href", "#").startswith("#")
    (style,) = elements.of("style")
    assert "url(" not in style[0] and "@import" not in style[0]
    ids = [attrs["id"] for _, attrs, _ in elements.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {href[1:] for href in re.findall(r'href="(#\w+)"', made[1])} <= set(ids)


def test_headings_go_down_by_one_level_at_most(made):
    levels = [int(tag[1]) for tag, _, _ in Elements(made[1]).found if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def run(*arguments):
    return CliRunner().invoke(cli, ["report", *arguments], catch_exceptions=False)


def test_the_command_writes_the_same_bytes_again(made, monkeypatch):
    folder, text = made
    monkeypatch.chdir(folder)
    done = run("demo.yaml")
    path = folder / "results/tables/demo.html"
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == "written: results/tables/demo.html"
    assert path.read_text("utf-8") == text
    assert run("demo.yaml", "-o", "elsewhere/page.html").exit_code == 0
    assert (folder / "elsewhere/page.html").read_bytes() == path.read_bytes()


def test_figures_for_papers(made, monkeypatch):
    folder, _ = made
    monkeypatch.chdir(folder)
    done = run("demo.yaml", "--figures", "figures")
    assert "figures in figures" in done.stdout
    names = sorted(path.name for path in (folder / "figures").iterdir())
    assert {"curve-reward.pdf", "curve-reward.svg", "diagnostics-wrong-by-kl.pdf"} <= set(names)
    before = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    assert all(b[:5] in (b"%PDF-", b"<?xml") for b in before.values())
    run("demo.yaml", "--figures", "figures")
    assert before == {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    assert "<script" not in (folder / "figures/curve-reward.svg").read_text()


def test_nothing_finished_writes_nothing(project):
    (project / "demo.yaml").write_text(SWEEP)
    done = run("demo.yaml")
    assert done.exit_code == 0
    assert "no run is finished yet" in done.stderr
    assert "vexp launch demo.yaml --wait" in done.stderr
    assert not list(project.rglob("*.html"))


def test_damage_is_said_on_the_page_and_in_the_terminal(project):
    finished_sweep(project)
    (path, *_) = sorted(project.glob("results/runs/grpo*/evaluations/heldout-*/results.json"))
    path.write_text("{")
    done = run("demo.yaml")
    assert done.exit_code == 0
    assert path.parents[2].name in done.stderr
    text = (project / "results/tables/demo.html").read_text()
    assert "damaged or do not count" in text and path.parents[2].name in text


def test_half_a_surrogate_pair_is_no_crash(project):
    finished_sweep(project)
    for path in project.glob("results/runs/*/evaluations/*/samples.jsonl"):
        path.write_text(path.read_text().replace("Question 0", r"\ud800"))
    assert run("demo.yaml").exit_code == 0


SCRIPT = """
import sys
from vexp.cli.main import main
try:
    main(["report", "demo.yaml"])
except SystemExit as end:
    assert not end.code
loaded = {"torch", "transformers", "accelerate"} & set(sys.modules)
assert not loaded, loaded
"""


def test_a_report_loads_no_torch(made):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=made[0], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_forty_runs_with_large_pictures_stay_within_the_limits(project, monkeypatch):
    """60 attention records of 300 tokens over 24 x 24 cells per run, as of a real backbone."""
    noise = np.random.default_rng(0).gamma(0.1, size=(300, 576))
    data = (255 * noise / noise.max()).astype(np.uint8).tobytes()
    packed = base64.b64encode(zlib.compress(data, 9)).decode()
    large = reported.kept_picture({"entropy": [0.123456] * 300}) | {"tokens": ["word "] * 300}
    large["attention"] |= {"rows": 24, "columns": 24, "data": packed}

    def samples(evaluator, shift):
        if evaluator == "credit":
            return []
        kept = {"gallery": large} if evaluator == "diagnostics" else {}
        return [reported.sample(n, **kept) for n in range(60)]

    monkeypatch.setattr(reported, "samples_of", samples)
    text = SWEEP.replace("seeds: [1, 2]", "seeds: [1, 2, 3, 4, 5, 6, 7]")
    finished_sweep(project, text)
    begin = time.monotonic()
    done = run("demo.yaml")
    took = time.monotonic() - begin
    assert done.exit_code == 0
    found = project / "results/tables/demo.html"
    assert 1_000_000 < found.stat().st_size < 15_000_000
    assert took < 20
    assert "questions are left out" in found.read_text()
