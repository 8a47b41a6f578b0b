"""Published tables: every cell, against sums made from the transcription, and what is printed."""

from __future__ import annotations

import csv
import hashlib
import io
import math

import pytest

from vexp.errors import ConfigError
from vexp.paths import shipped
from vexp.tables import reference
from vexp.tables.published import number, sheet
from vexp.tables.render import FORMATS

# Number of cells, and the sum of `row|column|value` lines. Made from the transcription itself, not
# from our files.
CELLS = {
    "ease/table1": (144, "c037bbc2c817c672"),
    "ease/table2": (56, "310b6e346efdf0ea"),
    "ease/table3": (40, "69bace6a8aed92d6"),
    "ease/table4": (18, "58c76fa838bba2f6"),
    "faithful_mr1/abstract_page": (7, "72eaa940672b6fe2"),
    "figure_scalars": (12, "aed9334a48c6fd2e"),
    "sayo/table1": (180, "368358d3fea5465d"),
    "sayo/table2_thirdparty": (24, "60c6b7d8711bfce3"),
    "sayo/table3_thirdparty": (10, "d8d598bab6424298"),
    "sayo/table4_5_thirdparty": (12, "ca4d5ab882b458a8"),
    "sayo/table6_thirdparty": (18, "70c13335650751b1"),
    "vgpo/table1": (144, "634d8a8758a7f8db"),
    "vgpo/table10": (48, "919a6e6eb38f7a2d"),
    "vgpo/table11": (72, "526e73c3d606986b"),
    "vgpo/table12": (36, "7120d01466c57fb1"),
    "vgpo/table2": (132, "157e4ce0e0a6fcb3"),
    "vgpo/table3": (12, "598062211067a7c5"),
    "vgpo/table4": (15, "94f5321f985c3148"),
    "vgpo/table5": (12, "a3438ead75ce7c9e"),
    "vgpo/table6": (9, "20ba9ead0fd7f15b"),
    "vgpo/table7": (18, "a079547bdfb24d71"),
    "vgpo/table8": (48, "393495e907d14b13"),
    "vgpo/table9": (60, "5902022fceb9896c"),
    "vicra/table1": (140, "38bc3162d24dafad"),
    "vicra/table10": (8, "d5d962218e035a0b"),
    "vicra/table2": (63, "b7c4710bb8019024"),
    "vicra/table3": (24, "1d660161639e5cd6"),
    "vicra/table4": (24, "3914d8a4786d625a"),
    "vicra/table5": (6, "09f1ff0fae2fe893"),
    "vicra/table6": (35, "aee82c4f3f96e029"),
    "vicra/table7": (26, "1573d7c31619391f"),
    "vicra/table8": (14, "7821d0bb5fd4ef10"),
    "vicra/table9": (35, "86490e8381c20346"),
}
# Typed from the papers.
PRINTED = [
    ("ease/table1", "qwen3_vl_8b_ease", "avg", 80.9),
    ("ease/table3", "hard_box_target", "vstar", 87.8),
    ("ease/table4", "total", "total", 127971),
    ("vicra/table1", "ours_dapo_w_vicra", "dynamath", 28.14),
    ("vicra/table3", "grpo", "vqav2", 72.84),
    ("vicra/table3", "p_value", "mme", 0.001),
    ("vicra/table4", "response_len", "avg_rea", 379),
    ("vicra/table10", "7b_grpo_w_vicra", "per_step_s", 434.8),
    ("vgpo/table12", "full_trajectory", "mathverse", 50.3),
    ("vgpo/table11", "qwen2_vl_2b_vgpo_ours", "geo3k", 16.8),
    ("vgpo/table7", "learning_rate", "value", 1e-6),
    ("sayo/table1", "sayo_qwen_8b", "charxiv", 42.5),
    ("faithful_mr1/abstract_page", "dynamath", "value", 26.8),
]


def records(name):
    """What `vexp table NAME --source published --format csv` prints, read back."""
    text = FORMATS["csv"](sheet(name, reference.load(name)))
    return list(csv.DictReader(io.StringIO(text)))


def canonical(text):
    """A value as the sums have it."""
    try:
        return f"{float(text):.6g}" if math.isfinite(float(text)) else text
    except ValueError:
        return " ".join(text.split()).lower() if text in ("True", "False") else text


def test_there_are_these_tables():
    assert reference.names() == sorted(CELLS)
    assert sum(count for count, _ in CELLS.values()) == 1502


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_is_the_published_one(name):
    lines = []
    for entry in (found := records(name)):
        lines.append(f"{entry['row']}|{entry['column']}|{canonical(entry['value'])}")
        if entry["spread"]:
            lines.append(f"{entry['row']}|{entry['column']}|±{canonical(entry['spread'])}")
    total = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    assert (len(found), total) == CELLS[name]


@pytest.mark.parametrize(("name", "row", "column", "value"), PRINTED)
def test_these_are_what_the_papers_print(name, row, column, value):
    assert reference.load(name).row(row).values[column] == value


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_is_shown_in_its_row_and_column(name):
    found = reference.load(name)
    shown = sheet(name, found)
    assert [line.cells[0].text for line in shown.lines] == [row.label for row in found.rows]
    assert [line.group for line in shown.lines] == [row.group for row in found.rows]
    assert [h.text for h in shown.headings[1:]] == [column.label for column in found.columns]
    assert [h.group for h in shown.headings[1:]] == [column.group for column in found.columns]
    for line, row in zip(shown.lines, found.rows, strict=True):
        for cell, column in zip(line.cells[1:], found.columns, strict=True):
            assert cell.text.startswith(number(row.values[column.id], found.unit))


def cells(name, row):
    found = reference.load(name)
    line = next(
        line
        for line, each in zip(sheet(name, found).lines, found.rows, strict=True)
        if each.id == row
    )
    return {c.id: cell for c, cell in zip(found.columns, line.cells[1:], strict=True)}


def test_marks_spreads_and_doubts_are_shown():
    assert cells("vicra/table1", "openai_gpt_4o_1120")["mathvista"].text == "60.0‡"
    assert cells("sayo/table1", "gpt4o")["vstar"].text == "-"
    assert cells("sayo/table1", "gpt4o")["m3cot"].text == "74.2†?"
    assert cells("vgpo/table1", "qwen2_5_vl_7b_runs_grpo")["avg_math"].text == "62.6 (↑25.2%)"
    assert cells("vicra/table3", "grpo")["vqav2"].text == "72.84 ± 0.7?"
    assert cells("vicra/table10", "3b_grpo_w_vicra")["additional_forward_latency_s"].text == (
        "39.5 (+15%)"
    )
    assert cells("ease/table4", "total")["total"].text == "127,971"
    notes = sheet("sayo/table3_thirdparty", reference.load("sayo/table3_thirdparty")).notes
    assert any("not verified against the paper" in note for note in notes)
    assert any("table 1 prints 68.46" in note for note in notes)


def test_best_is_bold_and_second_underlined_within_its_scope():
    assert cells("ease/table3", "ease_ours")["vstar"].rank == "best"
    assert cells("ease/table3", "target_to_model_kl")["vstar"].rank == "second"
    assert cells("ease/table3", "single_only")["vstar"].rank == "second"  # both print 89.5
    # each backbone of EASE table 1 is ranked by itself
    assert cells("ease/table1", "qwen3_vl_4b_ease")["avg"].rank == "best"
    assert cells("ease/table1", "qwen3_vl_8b_dapo")["avg"].rank == "second"
    # larger models are shown, not ranked
    large = "open_source_general_mllms_32b_72b_qwen3_vl_32b"
    assert {cell.rank for cell in cells("vgpo/table1", large).values()} == {""}
    # where the print's underline is known, it is kept, even on the third of a column
    assert cells("vicra/table1", "ours_dapo_w_vicra")["mathverse"].rank == "second"
    assert cells("vicra/table1", "vlaa_thinker_7b")["mathverse"].rank == ""


def test_markdown_of_a_published_table():
    text = FORMATS["md"](sheet("vgpo/table12", reference.load("vgpo/table12")))
    assert "| Full-trajectory | <u>71.4</u> | 50.3 | 53.8 |" in text
    assert "| Late-trajectory (Ours) | **74.1** | **71.6** |" in text
    assert "Vision-dependent Multimodal Reasoning (LogicVista, Counting, MMMU-Pro" in text
    assert text.endswith("`vexp table vgpo/table12 --source published` from results/reference.\n")


def test_an_unknown_table_is_named():
    with pytest.raises(ConfigError, match="no published table 'ease/table33'") as caught:
        reference.load("ease/table33")
    assert "did you mean 'ease/table3'" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("vstar: 90.1, ", ""), "row 'ease_ours': `values` has the columns hall, mmk12, avg"),
        (("vstar: 90.1", "vstar: nan"), "row 'ease_ours': vstar is nan"),
        (("vstar: 90.1", "vstar: [1]"), "vstar is neither a number nor text"),
        (("best: all", "best: [nobody]"), "no group is called 'nobody'"),
        (("id: early_layer", "id: final_layer"), "the row 'final_layer' is listed twice"),
        (("average: [vstar", "average: [vstra"), "'avg' is an average of 'vstra'"),
        (("format: 1", "format: 9"), "newer vexp"),
        (("unit: percent", "unit: percents"), "not one of the choices"),
    ],
)
def test_damaged_files_are_refused_by_row(tmp_path, change, message):
    text = (shipped("reference") / "ease" / "table3.yaml").read_text()
    assert change[0] in text
    path = tmp_path / "table3.yaml"
    path.write_text(text.replace(*change, 1))
    with pytest.raises(ConfigError) as caught:
        reference.read(path)
    assert message in str(caught.value)
