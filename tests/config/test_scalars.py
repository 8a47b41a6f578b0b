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
