"""One reader for YAML files and overrides: the same text means the same value everywhere."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException
from hypothesis import given
from hypothesis import strategies as st

from vexp.config.scalars import load_yaml, read_scalar
from vexp.errors import ConfigError

PARSER = OverridesParser.create()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6),
        ("1E6", 1e6),
        (".5", 0.5),
        ("-3", -3),
        ("1_000", 1000),
        ("off", "off"),
        ("yes", "yes"),
        ("NO", "NO"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("010", "010"),
        ("12:30:45", "12:30:45"),
        ("0x10", "0x10"),
        ("2026-11-21", "2026-11-21"),
        ("1.2.3", "1.2.3"),
        ("nan", math.nan),
        ("-inf", -math.inf),
    ],
)
def test_scalars_that_yaml_1_1_reads_differently(text, value):
    found = read_scalar(text)
    assert type(found) is type(value)
    assert found == value or (value != value and found != found)


def same(a, b):
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return True
    return type(a) is type(b) and a == b


WORDS = st.one_of(
    st.sampled_from(
        ["off", "on", "yes", "no", "y", "010", "1e-6", "12:30:45", "0b1", "0o7", "1_0"]
    ),
    st.text(alphabet="0123456789eE+-._:", min_size=1, max_size=8),
    st.floats(allow_nan=True).map(repr),
    st.integers().map(str),
    st.text(alphabet="aeflnrstuTFN", min_size=1, max_size=6),
)


@given(WORDS)
def test_reader_agrees_with_hydras_override_grammar(text):
    try:
        override = PARSER.parse_override(f"key={text}")
    except HydraException:
        return
    if override.is_sweep_override() or isinstance(override._value, QuotedString):
        return
    value = override.value()
    if isinstance(value, str | int | float | bool) or value is None:
        assert same(read_scalar(text), value), text


@given(WORDS)
def test_yaml_file_and_reader_agree(text):
    if text in ("-", "?") or text.startswith(("- ", "---")) or text.endswith(":") or text == "...":
        return
    found = load_yaml(Path("memory.yaml"), text=f"key: {text}\n")["key"]
    assert same(found, read_scalar(text)), text


def test_quotes_keep_text_and_lines_are_remembered():
    found = load_yaml(Path("x.yaml"), text="a: '1'\nb:\n  c: \"true\"\n  d: |\n    12\n")
    assert found == {"a": "1", "b": {"c": "true", "d": "12\n"}}
    assert found.lines == {"a": 1, "b": 2}
    assert found["b"].lines == {"c": 3, "d": 4}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a: 1\na: 2\n", "stands twice"),
        ("a: [1, 2\n", "not valid YAML"),
        ("- 1\n", "expected `key: value`"),
        ("a: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
        ("a: !import vexp\n", "not valid YAML"),
    ],
)
def test_bad_yaml_names_file_and_line(text, what):
    with pytest.raises(ConfigError, match=r"bad\.yaml") as error:
        load_yaml(Path("bad.yaml"), text=text)
    assert what in str(error.value)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_yaml(tmp_path / "none.yaml")
    (tmp_path / "bin.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read"):
        load_yaml(tmp_path / "bin.yaml")


ALIASES = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a: " + "[" * 100_000, "more than 100 levels"),
        ("a: " + "{b: " * 1_000, "more than 100 levels"),
        ("a:\n  " + "- " * 1_000 + "x", "more than 100 levels"),
        ("? " * 1_000, "more than 100 levels"),
        (f"unread: {{a: &a0 [1, 2, 3]}}\n{ALIASES}", "stand for more than 10,000 values"),
        ("a: &a [*a]", "stands within what it stands for"),
        ("a: &a {b: {<<: *a}}", "stands within what it stands for"),
        (f"a: {'1' * 5_000}", "a number of 5,000 digits is not read"),
        ("a: {<<: 3}", "`<<` merges mappings"),
        ("a: {<<: [3]}", "`<<` merges mappings"),
        ("a: *b", "undefined alias"),
    ],
)
def test_yaml_has_bounds(text, what):
    with pytest.raises(ConfigError, match=r"bomb\.yaml:\d") as error:
        load_yaml(Path("bomb.yaml"), text=text)
    assert what in str(error.value)
    assert len(str(error.value)) < 200


def test_large_files_are_not_read(tmp_path):
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(ConfigError, match="more than 16 MiB"):
        load_yaml(tmp_path / "large.yaml")


def test_merge_keys_give_way_to_those_beside_them():
    text = """\
    a: &a {x: 1, y: {z: 2}}
    b: &b {x: 3, q: 4}
    c:
      y: 5
      <<: *a
    d: {<<: [*a, *b], q: 6}
    e: {"<<": 7}
    f: {<<: *a}
    """
    found = load_yaml(Path("m.yaml"), text=text)
    assert found["c"] == {"x": 1, "y": 5}
    assert found["c"].lines == {"x": 1, "y": 4}  # where each was written
    assert found["d"] == {"x": 1, "y": {"z": 2}, "q": 6}
    assert found["e"] == {"<<": 7}
    assert found["f"] == found["a"]
