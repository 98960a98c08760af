"""Whatever anybody puts into the store or a config is a value or a ConfigError, never a crash."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyflannel.model.errors import ConfigError
from pyflannel.model.fields import Fields
from pyflannel.model.network import NetworkConfig
from pyflannel.store.keys import decode_key, decode_value, encode_key, encode_value

T = TypeVar("T")
READERS: dict[str, Callable[[Fields], object]] = {
    "boolean": lambda fields: fields.boolean("x", True),
    "integer": lambda fields: fields.integer("x", 7),
    "text": lambda fields: fields.text("x", "d"),
    "texts": lambda fields: fields.texts("x"),
    "ipv4": lambda fields: fields.ipv4("x"),
    "ipv6": lambda fields: fields.ipv6("x"),
    "network4": lambda fields: fields.network4("x"),
    "network6": lambda fields: fields.network6("x"),
    "child": lambda fields: fields.child("x"),
    "raw": lambda fields: fields.raw("x"),
}
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from(
        ["10.5.0.0/16", "10.5.0.0", "fd00::1", "fd00::/64", "fe80::1%lo", "::ffff:1.2.3.4", "1.2.3.4/0x10", "\ud800"]
    ),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=8
)


def failure(read: Callable[[T], object], given: T) -> ConfigError | None:
    """The ConfigError that reading ends in, if it does; any other exception is a crash."""
    try:
        read(given)
    except ConfigError as error:
        return error
    return None


@given(values)
def test_any_value_for_any_field(value: Any) -> None:
    text = json.dumps({"X": value})
    try:
        fields = Fields.parse(text, "here")
    except ConfigError:
        assert any(word in text for word in ("NaN", "Infinity")), text
        return
    for read in READERS.values():
        error = failure(read, fields)
        assert error is None or str(error).startswith("here: x is ")


@given(st.text() | values.map(json.dumps))
def test_any_text(text: str) -> None:
    parsers: list[Callable[[str], object]] = [
        NetworkConfig.parse,
        lambda text: decode_value(text, "key"),
        lambda text: Fields.parse(text, "s"),
    ]
    for parse in parsers:
        error = failure(parse, text)
        assert error is None or error.expected


@pytest.mark.parametrize("brackets", ["[", '{"a":', '[{"b":'])
@pytest.mark.parametrize("depth", [150, 990, 5_000, 200_000])
def test_text_nested_deeper_than_any_stack(brackets: str, depth: int) -> None:
    closing = "".join({"[": "]", "{": "}"}[sign] for sign in reversed(brackets) if sign in "[{")
    text = f'{{"PublicIP":"1.2.3.4","BackendData":{brackets * depth}1{closing * depth}}}'
    with pytest.raises(ConfigError):
        decode_value(text, "key")


_LONE = re.compile(r"\\ud800(?!\\ud[c-f])")


@example({"\U00010000": "\ud800"})
@given(values)
def test_backend_data_comes_through(value: Any) -> None:
    """What is read is written again as JSON that means the same (half a surrogate pair has no meaning)."""
    try:
        attrs = decode_value(json.dumps({"PublicIP": "1.2.3.4", "BackendType": "x", "BackendData": value}), "key")
    except ConfigError:
        return
    again = decode_value(encode_value(attrs), "key")
    assert again == attrs
    if attrs.backend_data is not None:
        attrs.backend_data.encode()
        assert json.loads(attrs.backend_data) == json.loads(_LONE.sub(r"\\ufffd", json.dumps(value)))


@given(st.from_regex(r"[0-9a-fx.&:/-]{0,40}") | st.text())
def test_any_key(text: str) -> None:
    found = decode_key(text)
    if found is not None:
        assert decode_key(encode_key(found)) == found
