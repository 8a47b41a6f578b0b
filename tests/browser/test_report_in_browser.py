"""The report as a reader meets it, in a real Chromium."""

from __future__ import annotations

import pytest

from tests.browser.looking import DESKTOP, PHONE
from tests.tables.reported import HOSTILE, TOKENS
from vexp.tables.latex import latex
from vexp.tables.tokens import visible

LATEX = "navigator.clipboard.readText().then(arguments[arguments.length - 1])"


@pytest.fixture
def page(chromium, report):
    return chromium.open(report[0])


def keys(*names):
    from selenium.webdriver.common.keys import Keys

    return [getattr(Keys, name) for name in names]


def column(page, number):
    return page.texts(f"#table tbody tr > :nth-child({number})")


def order(page):
    return page.each("#table thead tr:last-child th", "e.ariaSort")


def test_sorting_by_click_and_by_keyboard(page, report):
    before = column(page, 3)
    assert before[2].startswith("0/2")
    buttons = page.all("#table thead button")
    assert len(buttons) == 4
    buttons[2].click()
    assert order(page) == [None, None, "descending", None]
    found = column(page, 3)
    assert found[-1].startswith("0/2")  # what is missing is last, in either order
    means = [float(text.split()[0]) for text in found[:-1]]
    assert means == sorted(means, reverse=True) and means != sorted(means)
    buttons[2].send_keys(*keys("ENTER"))
    assert order(page) == [None, None, "ascending", None]
    found = column(page, 3)
    assert [float(text.split()[0]) for text in found[:-1]] == sorted(means)
    assert found[-1].startswith("0/2")
    buttons[2].send_keys(*keys("SPACE"))
    assert order(page) == [None] * 4
    assert column(page, 3) == before
    buttons[1].click()  # settings are text that is read as numbers where it is some
    assert column(page, 2) == ["1e-05", "1e-05", "0.0001", "0.0001", "0.001", "0.001"]
    buttons[0].click()
    assert column(page, 1) == sorted(column(page, 1), key=str.lower)
    assert order(page)[0] == "ascending"
    assert sorted(column(page, 3)) == sorted(before)


def test_latex_is_copied_as_vexp_table_writes_it(page, report):
    page.one("#copy").send_keys(*keys("ENTER"))
    page.wait("document.getElementById('copied').textContent")
    assert page.one("#copied").text == "Copied."
    copied = page.driver.execute_async_script(LATEX)
    assert copied == latex(report[1].sheet)
    assert "\\toprule" in copied


def test_a_browser_without_a_clipboard_still_copies(page, report):
    page.js("void Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.one("#copy").click()
    page.wait("document.getElementById('copied').textContent")
    assert page.js("document.getElementById('latex').parentElement.open")
    assert page.js("getSelection().toString()").strip() == latex(report[1].sheet).strip()


def selected(page, side="left"):
    return page.texts(f"[aria-label='{side} answer'] [aria-selected=true]")


def shades(page, side="left"):
    return page.each(
        f"[aria-label='{side} answer'] .cell", "Number(e.getAttribute('fill-opacity'))"
    )


def test_stepping_through_tokens_shows_their_attention(page):
    tokens = page.one("[aria-label='left answer'] .tokens")
    page.wait("document.querySelectorAll('.cell').length == 8")
    assert selected(page) == []
    assert max(shades(page)) < 0.75  # the mean of all tokens
    for number in range(3):
        tokens.send_keys(*keys("ARROW_RIGHT"))
        assert selected(page) == [visible(TOKENS[number])]
        page.wait("document.querySelector('.cell[fill-opacity=\"0.750\"]')")
        found = shades(page)
        assert found[number] == 0.75 and sum(found) == 0.75
        assert tokens.get_attribute("aria-activedescendant") == f"left-token-{number}"
        about = page.one("[aria-label='left answer'] .about").text
        assert f"Token {number + 1} of 7" in about and "image effect" in about
    tokens.send_keys(*keys("ARROW_LEFT"))
    assert selected(page) == [TOKENS[1]]
    tokens.send_keys(*keys("END", "ARROW_RIGHT"))
    assert selected(page) == [TOKENS[-1]]
    assert selected(page, "right") == []  # each answer has a place of its own
    tokens.send_keys(*keys("ESCAPE"))
    assert selected(page) == []
    page.wait("!document.querySelector('.cell[fill-opacity=\"0.750\"]')")


def test_pointing_at_a_token_selects_it(page):
    from selenium.webdriver import ActionChains

    token = page.all("[aria-label='right answer'] .token")[1]
    page.js("arguments[0].scrollIntoView({block: 'center'})", token)
    ActionChains(page.driver).move_to_element(token).perform()
    assert selected(page, "right") == ["red "]
    ActionChains(page.driver).move_to_element(page.one("#asked")).perform()
    assert selected(page, "right") == []
    token.click()
    ActionChains(page.driver).move_to_element(page.one("#asked")).perform()
    assert selected(page, "right") == ["red "]
    token.click()
    assert selected(page, "right") == []


def test_a_tap_selects_a_token(chromium, report):
    page = chromium.open(report[0], PHONE)
    page.wait("document.querySelectorAll('.cell').length == 8")
    token = page.all("[aria-label='left answer'] .token")[5]
    page.js("arguments[0].scrollIntoView({block: 'center'})", token)
    place = page.js("(r => ({x: r.x + r.width / 2, y: r.y + r.height / 2}))"
                    "(arguments[0].getBoundingClientRect())", token)  # fmt: skip
    touch = "Input.dispatchTouchEvent"
    page.driver.execute_cdp_cmd(touch, {"type": "touchStart", "touchPoints": [place]})
    page.driver.execute_cdp_cmd(touch, {"type": "touchEnd", "touchPoints": []})
    page.wait("document.querySelector('[aria-selected=true]')")
    assert selected(page) == ["5"]


def choose(page, side, label, text):
    from selenium.webdriver.support.ui import Select

    pane = f"[aria-label='{side} answer']"
    place = next(e for e in page.all(f"{pane} label") if e.text.startswith(label))
    select = Select(place.find_element("css selector", "select"))
    select.select_by_visible_text(text)


def test_rows_stand_side_by_side_with_a_chooser(page, report):
    labels = [line.label for line in report[1].lines]
    choose(page, "left", "Row", "DAPO rl.learning_rate=0.0001")
    verdicts = page.texts(".verdict")
    assert all(HOSTILE not in text and "“<b>5</b>”, gold “5”" in text for text in verdicts)
    choose(page, "left", "Response", "sampled response 0")
    choose(page, "left", "Colour", "credit")
    classes = page.each("[aria-label='left answer'] .token", "e.className")
    assert [n for n, name in enumerate(classes) if "less" in name] == [2]
    assert [n for n, name in enumerate(classes) if "against" in name] == [2]
    assert page.js("document.querySelector('.token').title") == "credit 1"
    choose(page, "left", "Row", labels[2])
    (verdict,) = page.texts("[aria-label='left answer'] .verdict")
    assert verdict == "No response of this row was kept."
    assert page.texts("[aria-label='left answer'] .token") == []
    choose(page, "left", "Row", "DAPO rl.learning_rate=0.0001")
    before = page.one("#asked").text
    page.one("#next").click()
    assert page.one("#asked").text.startswith("Question 1") and before.startswith("Question 0")
    page.one("#previous").click()
    page.one("#previous").click()
    assert page.one("#asked").text.startswith("Question 2")


def test_boxes_and_attention_can_be_hidden(page):
    page.wait("document.querySelectorAll('.cell').length == 8")
    (box, _) = page.all(".picture .box")
    assert [box.get_attribute(name) for name in ("x", "y", "width", "height")] == [
        "0.5",
        "0",
        "0.5",
        "0.5",
    ]
    page.one("#attention").click()
    page.wait("document.querySelectorAll('.cell').length == 0")
    assert len(page.all(".picture .box")) == 2
    page.one("#boxes").click()
    page.wait("document.querySelectorAll('.box').length == 0")


def test_hostile_texts_stay_text_and_nothing_leaves_the_page(page, report):
    page.wait("document.querySelectorAll('.cell').length == 8")
    for details in page.all("details > summary"):
        details.click()
    assert HOSTILE in page.texts("h1")[0]
    assert HOSTILE in page.texts("#asked")[0]
    assert page.texts(".token")[2] == "<script>alert(1)</script>"
    assert "<img src=x onerror=alert(2)>" in page.texts("[aria-label='left answer'] .about")[0]
    assert [image.get_attribute("src")[:14] for image in page.all("img")] == ["data:image/png"] * 2
    assert page.js("document.scripts.length") == 2
    own = report[0].resolve().as_uri()
    assert {url for url in page.requested() if not url.startswith("data:")} == {own}
    assert page.complaints() == []


def test_the_policy_stops_what_would_be_put_into_the_page(page):
    image = '<img src=http://evil.test/x onerror="window.hit=1">'
    page.js("document.body.insertAdjacentHTML('beforeend', arguments[0])", image)
    page.js(
        "document.body.append(Object.assign(document.createElement('script'), arguments[0]))",
        {"textContent": "window.hit=1"},
    )
    page.wait("document.images[document.images.length - 1].complete")
    assert page.js("window.hit") is None
    complaints = [text for text in page.complaints() if "Content Security Policy" in text]
    assert len(complaints) == 3  # the address, its handler, the script


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_the_page_never_scrolls_sideways(chromium, report, size, dark):
    page = chromium.open(report[0], size, dark)
    page.wait("document.querySelectorAll('.cell').length == 8")
    for details in page.all("details > summary"):
        page.js("arguments[0].click()", details)
    assert page.js("innerWidth") == size[0]
    assert page.js("document.documentElement.scrollWidth") <= size[0]
    page.js("window.scrollTo(9999, 0)")
    assert page.js("window.scrollX") == 0


def test_a_wide_table_scrolls_in_its_own_box_and_by_keyboard(chromium, report):
    page = chromium.open(report[0], PHONE)
    box = page.one("#table .scroll")
    assert page.js("arguments[0].scrollWidth > arguments[0].clientWidth", box)
    box.send_keys(*keys("ARROW_RIGHT", "ARROW_RIGHT"))
    page.wait("document.querySelector('#table .scroll').scrollLeft > 0")


CONTRAST = """(() => {
  const rgb = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = (text) => {
    const straight = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = rgb(text).map((v) => straight(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$|transparent/.test(color)) return color;
    }
  };
  const found = {};
  const all = "h1, h2, h3, p, td, th, a, button, label, summary, li, figcaption";
  for (const e of document.querySelectorAll(all)) {
    if (!e.textContent.trim() || !e.getClientRects().length) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const name = e.tagName + "." + e.className;
    found[name] = Math.min(found[name] ?? 99, ratio);
  }
  return found;
})()"""


@pytest.mark.parametrize("dark", [False, True])
def test_texts_can_be_read_in_light_and_dark(chromium, report, dark):
    page = chromium.open(report[0], dark=dark)
    background = page.js("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") is not dark
    found = page.js(CONTRAST)
    assert len(found) > 8
    assert not {name: ratio for name, ratio in found.items() if ratio < 4.5}  # WCAG 2, AA


def test_everything_that_can_be_used_has_a_name(page):
    page.wait("document.querySelectorAll('.cell').length == 8")
    page.driver.execute_cdp_cmd("Accessibility.enable", {})
    nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    named = {}
    for node in nodes:
        role = node.get("role", {}).get("value")
        if not node.get("ignored") and role:
            named.setdefault(role, []).append(node.get("name", {}).get("value", ""))
    for role in ("button", "combobox", "checkbox", "listbox", "option", "image", "link", "table",
                 "columnheader", "rowheader", "heading"):  # fmt: skip
        assert named.get(role), role
        assert all(name.strip() for name in named[role]), (role, named[role])


def test_the_keyboard_reaches_everything_and_its_place_is_seen(page):
    body, reached = page.one("body"), []
    for _ in range(60):
        page.driver.switch_to.active_element.send_keys(*keys("TAB"))
        style = page.js("getComputedStyle(document.activeElement).outlineStyle")
        name = page.js("(e => e.id || e.className || e.tagName)(document.activeElement)")
        if page.driver.switch_to.active_element == body:
            break
        assert style != "none", name
        reached.append(name)
    assert {"copy", "question", "next", "tokens", "boxes", "scroll", "skip"} <= set(reached)


def test_charts_follow_the_chosen_rows_and_are_told_in_numbers(page):
    lines = "document.querySelectorAll('[data-chart=curve-reward] .line').length"
    assert page.js(lines) == 5  # one row of six has no run
    page.all("#lines input")[0].click()
    assert page.js(lines) == 4
    label = page.one(".plot[data-chart=curve-reward] svg").get_attribute("aria-label")
    assert label.startswith("Reward. Last values: ") and HOSTILE in label
    page.one("details.data[data-chart=curve-reward] summary").click()
    page.wait("document.querySelectorAll('details.data[data-chart=curve-reward] tbody tr').length")
    cells = page.each("details.data[data-chart=curve-reward] tbody tr", "e.children.length")
    assert cells == [6] * (5 * 44)


def test_pointing_at_a_chart_reads_its_values(page):
    from selenium.webdriver import ActionChains

    # The chart's place, not its svg: that is drawn anew when its size settles.
    chart = page.one(".plot[data-chart=curve-reward]")
    page.js("arguments[0].scrollIntoView({block: 'center'})", chart)
    ActionChains(page.driver).move_to_element(chart).perform()
    (text, *_) = page.texts(".readout")
    assert text.startswith("step of RL ") and "DAPO rl.learning_rate=0.0001 " in text
