"""How text becomes values: Go's reading of JSON and of addresses, row by row (control-plane reference, 0.1 and 0.2)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyflannel.model.errors import ConfigError
from pyflannel.model.fields import DEEPEST, Fields, compact
from pyflannel.model.network import NetworkConfig

Reader = Callable[[Fields], object]
boolean: Reader = lambda fields: fields.boolean("F", True)  # noqa: E731
integer: Reader = lambda fields: fields.integer("F", 7)  # noqa: E731
text: Reader = lambda fields: fields.text("F", "d")  # noqa: E731
ipv4: Reader = lambda fields: str(fields.ipv4("F"))  # noqa: E731
ipv6: Reader = lambda fields: str(fields.ipv6("F"))  # noqa: E731
network4: Reader = lambda fields: str(fields.network4("F"))  # noqa: E731
network6: Reader = lambda fields: str(fields.network6("F"))  # noqa: E731

READ: list[tuple[str, Reader, object]] = [
    # Names: any case; the last of duplicates in any case wins; unknown ones are ignored.
    ('{"f": 5}', integer, 5),
    ('{"F": 5, "f": 6}', integer, 6),
    ('{"f": 6, "F": 5}', integer, 5),
    ('{"G": 5}', integer, 7),
    ("null", integer, 7),
    ("{}", text, "d"),
    # null keeps the default.
    ('{"F": null}', boolean, True),
    ('{"F": null}', integer, 7),
    ('{"F": null}', text, "d"),
    ('{"F": 5, "f": null}', integer, 7),
    ('{"F": false}', boolean, False),
    ('{"F": 0}', integer, 0),
    ('{"F": ""}', text, ""),
    # IPv4: a dotted quad or the mapped form; all zeros is "not set".
    ('{"F": "10.3.5.7"}', ipv4, "10.3.5.7"),
    ('{"F": "::ffff:10.3.5.7"}', ipv4, "10.3.5.7"),
    ('{"F": "0.0.0.0"}', ipv4, "None"),
    ("{}", ipv4, "None"),
    # IPv6: any literal, IPv4 is mapped; null and "::" are "not set".
    ('{"F": "FC00:0:0:0::0:1"}', ipv6, "fc00::1"),
    ('{"F": "1.2.3.4"}', ipv6, "::ffff:102:304"),
    ('{"F": "::"}', ipv6, "None"),
    ('{"F": null}', ipv6, "None"),
    # Networks: host bits are cleared; all zeros and length 0 is "not set".
    ('{"F": "10.3.5.7/16"}', network4, "10.3.0.0/16"),
    ('{"F": "0.0.0.0/0"}', network4, "None"),
    ('{"F": "0.0.0.0/8"}', network4, "0.0.0.0/8"),
    ('{"F": "fc00:1:2::3/48"}', network6, "fc00:1:2::/48"),
    ('{"F": "::/0"}', network6, "None"),
]
REFUSED: list[tuple[str, Reader]] = [
    *((f'{{"F": {value}}}', integer) for value in ("24.0", '"24"', "-1", "1e2", "true", "[]", "4294967296")),
    *((f'{{"F": {value}}}', boolean) for value in ('"true"', "1", "0", "{}")),
    *((f'{{"F": {value}}}', text) for value in ("5", "true", "[]", "{}")),
    *(
        (f'{{"F": {value}}}', ipv4)
        for value in (
            "null",
            "5",
            '""',
            '" 1.2.3.4"',
            '"1.2.3.4 "',
            '"01.2.3.4"',
            '"1.2.3"',
            '"fd00::1"',
            '"1.2.3.4/8"',
        )
    ),
    *((f'{{"F": {value}}}', ipv6) for value in ("5", '""', '"fe80::1%eth0"', '"fd00::1/64"', '"fd00:::1"')),
    *(
        (f'{{"F": {value}}}', network4)
        for value in ("null", '""', '"10.3.0.0"', '"10.3.0.0/255.255.0.0"', '"10.3.0.0/33"', '"fc00::/48"', '"a/8"')
    ),
    *((f'{{"F": {value}}}', network6) for value in ("null", '"fc00::"', '"fc00::/129"', '"10.3.0.0/16"')),
]
NO_OBJECT = ["", " ", "[]", '"text"', "5", "true", "{", '{"F": 1} x', "{'F': 1}", "\ufeff{}", '{"F": NaN}', "\0"]


@pytest.mark.parametrize(("given", "reader", "expected"), READ)
def test_what_is_read(given: str, reader: Reader, expected: object) -> None:
    assert reader(Fields.parse(given, "s")) == expected


@pytest.mark.parametrize(("given", "reader"), REFUSED)
def test_what_is_refused_is_named_with_its_value_and_what_is_allowed(given: str, reader: Reader) -> None:
    with pytest.raises(ConfigError, match=r"^s: F is .+, expected (a|an|true) "):
        reader(Fields.parse(given, "s"))


@pytest.mark.parametrize("given", NO_OBJECT)
def test_what_is_no_object(given: str) -> None:
    with pytest.raises(ConfigError, match=r"^s: the text is .*expected a JSON object"):
        Fields.parse(given, "s")


def test_a_field_within_a_field_is_named_by_its_way() -> None:
    child = Fields.parse('{"backend": {"vni": "x"}}', "net-conf.json").child("Backend")
    assert child is not None
    with pytest.raises(ConfigError, match=r"^net-conf\.json: Backend\.VNI is \"x\", expected an integer from 0 to 9$"):
        child.integer("VNI", 1, 0, 9)


def test_depth_has_a_limit() -> None:
    def nested(depth: int) -> str:
        return '{"F": ' + "[" * (depth - 1) + "1" + "]" * (depth - 1) + "}"

    assert Fields.parse(nested(DEEPEST), "s").raw("F") == nested(DEEPEST)[6:-1]
    with pytest.raises(ConfigError, match=f"nested at most {DEEPEST} deep"):
        Fields.parse(nested(DEEPEST + 1), "s")
    wide = '{"F": [' + ",".join(["{}"] * 1000) + "]}"
    assert Fields.parse(wide, "s").has("F")


def test_text_is_written_as_go_writes_it() -> None:
    assert compact({"b": [1, 2.5, None, True], "a": "<&>\u2028é\n"}) == (
        '{"b":[1,2.5,null,true],"a":"\\u003c\\u0026\\u003e\\u2028é\\n"}'
    )
    assert compact("\ud800x") == '"\ufffdx"'


def test_a_null_switch_is_no_switch() -> None:
    assert NetworkConfig.parse('{"Network":"10.3.0.0/16","EnableNFTables":null}').nftables is None


def test_a_last_subnet_before_the_first_is_named() -> None:
    with pytest.raises(ConfigError, match=r'SubnetMax is "10\.3\.0\.0", expected at least 10\.3\.1\.0'):
        NetworkConfig.parse('{"Network":"10.3.0.0/16","SubnetMax":"10.3.0.0"}')
    with pytest.raises(
        ConfigError, match=r'IPv6SubnetMin is "fc00:0:0:9::", expected at most IPv6SubnetMax, fc00:0:0:5::'
    ):
        NetworkConfig.parse(
            '{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48",'
            '"IPv6SubnetMin":"fc00:0:0:9::","IPv6SubnetMax":"fc00:0:0:5::"}'
        )
