"""Tokens coloured by weight: nothing of the data is markup, and every token is there."""

from __future__ import annotations

import html.parser
import io
import re
import xml.etree.ElementTree as ElementTree

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from vexp.cli.main import cli
from vexp.runs.execute import execute
from vexp.runs.store import RunStore
from vexp.runs.workspace import SilentReporter
from vexp.spec.resolve import resolve
from vexp.tables import tokens

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</text><script>alert(1)</script>&amp;\"'\x00\x1b[31m\ud800\n"


def response(*pairs, question="Which?", verdict="(right)"):
    return tokens.ShownTokens(question, verdict, pairs)


def sample(name, **fields):
    given = {"id": name, "question": f"q {name}", "answer": "4", "correct": 1.0}
    return given | {"tokens": [["a", 1.0]]} | fields


def texts(picture):
    root = ElementTree.fromstring(picture)
    return [(e.text or "").replace("\u00a0", " ") for e in root.iter(f"{SVG}text")]


@given(st.lists(st.tuples(st.text(), st.floats(-9, 9)), max_size=30), st.text())
def test_an_svg_holds_every_token_and_no_markup_of_the_data(pairs, question):
    made = response(*pairs, question=question)
    picture = tokens.svg([made], question)
    root = ElementTree.fromstring(picture)
    assert {e.tag.removeprefix(SVG) for e in root.iter()} <= {
        "svg",
        "style",
        "rect",
        "text",
        "title",
    }
    whole = "".join(texts(picture))
    assert "".join(tokens.visible(text) for text, _ in pairs).replace("\u00a0", " ") in whole
    assert not re.search(r"(href|src|url\(|@import)", re.sub(r">[^<]*<", "><", picture))


class Elements(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text, self.attributes = [], "", []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("place", ["token", "question", "title"])
def test_hostile_text_is_text(place):
    made = response(
        (HOSTILE if place == "token" else "a", -1.5),
        question=HOSTILE if place == "question" else "q",
    )
    title = HOSTILE if place == "title" else "t"
    shown = tokens.visible(HOSTILE)
    assert "\x1b" not in shown and "\n" not in shown
    assert shown in " ".join("".join(texts(tokens.svg([made], title))).split("\u00a0"))
    found = Elements()
    found.feed(tokens.page([made], title))
    assert set(found.tags) == {"html", "meta", "title", "style", "h1", "p", "span"}
    assert {name for name, _ in found.attributes} <= {
        "lang", "charset", "name", "content", "class", "title", "style",
    }  # fmt: skip
    assert shown in found.text


def test_colors_say_more_less_and_against():
    picture = tokens.svg([response(("up", 2.0), ("even", 1.0), ("down", 0.5), ("not", -0.5))], "t")
    root = ElementTree.fromstring(picture)
    rects = [(r.get("class"), r.get("fill-opacity")) for r in root.iter(f"{SVG}rect")][1:6]
    most = tokens.STRONGEST
    assert rects == [
        ("m", f"{most * 2 / 3:.2f}"), ("l", "0.00"), ("l", f"{most / 3:.2f}"),
        ("l", f"{most:.2f}"), ("a", None),
    ]  # fmt: skip
    titles = [e.text for e in root.iter(f"{SVG}title")]
    assert titles[:4] == ["2.000", "1.000", "0.500", "-0.500"]
    assert [t.strip() for t in texts(picture)[-5:]] == ["-0.50", "0.25", "1.00", "1.75", "2.50"]


def test_both_modes_are_there():
    for made in (tokens.svg([response(("a", 1.5))], "t"), tokens.page([response(("a", 1.5))], "t")):
        light, dark = made.split("prefers-color-scheme:dark")
        assert tokens.LIGHT["page"] in light and tokens.DARK["page"] in dark
        assert tokens.DARK["page"] not in light


def test_uniform_weights_have_no_color():
    made = [response(("a", 1.0), ("b", 1.0))]
    assert tokens.furthest(made) == 1 == tokens.furthest([])
    root = ElementTree.fromstring(tokens.svg(made, "t"))
    shades = [r.get("fill-opacity") for r in root.iter(f"{SVG}rect")][1:3]
    assert shades == ["0.00", "0.00"]


def test_long_responses_are_wrapped_within_the_picture():
    made = response(*[("word ", 1.0)] * 100, ("x" * 300, 1.0))
    root = ElementTree.fromstring(tokens.svg([made], "t"))
    width = float(root.get("width"))
    for rect in list(root.iter(f"{SVG}rect"))[1:]:
        assert float(rect.get("x")) + float(rect.get("width")) <= width


def test_one_response_of_each_question_comes_first():
    samples = [sample(f"m/{q}#{k}") for q in range(3) for k in range(2)]
    samples.append(sample("m/9#0", tokens=[]))
    found = [made.question for made in tokens.shown(samples, 4)]
    assert found == ["q m/0#0", "q m/1#0", "q m/2#0", "q m/0#1"]
    assert tokens.shown([sample("m/0#0", correct=0.0)], 1)[0].verdict == "(wrong, it is 4)"


def test_the_terminal_shows_the_same_text():
    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, width=60, force_terminal=True, color_system="truecolor")
    console.print(tokens.terminal([response(("seven", 2.0), (HOSTILE, -1.0))]))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert "seven" in plain and "<script>" in plain and "\x1b" not in plain


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    from tests.train.fakes import SMALLEST

    root = tmp_path_factory.mktemp("results")
    small = "size: 2, group_size: 2, keep: 2"
    run = resolve(
        [
            *SMALLEST, "stages=[]", "~evaluator.heldout", f"results_dir={root}",
            f"+evaluator.own={{name: credit, {small}}}",
            f"+evaluator.vgpo={{name: credit, credit: vgpo, {small}}}",
        ]
    )  # fmt: skip
    execute(run, reporter=SilentReporter(), store=RunStore(root))
    return root


def vexp(home, *arguments):
    name = RunStore(home).runs()[0].name
    return CliRunner().invoke(cli, ["tokens", name, "--results-dir", str(home), *arguments])


def test_the_command_writes_pictures(home, tmp_path):
    for suffix in (".svg", ".html"):
        path = tmp_path / f"x{suffix}"
        found = vexp(home, "--evaluation", "vgpo", "--output", str(path))
        assert found.exit_code == 0, found.output
        assert "of vgpo credit" in path.read_text()
    assert "weight" in vexp(home, "--evaluation", "own").output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "several have tokens.*own, vgpo"),
        (("--evaluation", "vgop"), "no evaluation 'vgop' with tokens.*did you mean 'vgpo'"),
        (("--output", "x.png"), "unknown format '.png'.*.svg or .html"),
    ],
)
def test_mistakes_are_named(home, arguments, message):
    found = vexp(home, *arguments)
    assert found.exit_code
    assert re.search(message, str(found.exception), re.DOTALL)


def test_a_run_without_tokens_says_how_to_get_some(home, tmp_path):
    run = resolve(["stages=[]", "~evaluator.heldout", f"results_dir={tmp_path}"])
    execute(run, reporter=SilentReporter(), store=RunStore(tmp_path))
    found = vexp(tmp_path)
    assert "+evaluator.credit=credit" in str(found.exception)
