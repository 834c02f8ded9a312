"""The usual text of an address, as the standard library's slower module has it."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trioasgi.net.trust import normal_address


def expected(text: str) -> str | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


@given(st.ip_addresses())
@example(ipaddress.ip_address("::"))
@example(ipaddress.ip_address("::1"))
@example(ipaddress.ip_address("::1.2.3.4"))
@example(ipaddress.ip_address("::ffff:1.2.3.4"))
@example(ipaddress.ip_address("64:ff9b::1.2.3.4"))
@example(ipaddress.ip_address("1:0:2:3:4:5:6:7"))
@example(ipaddress.ip_address("1:0:0:2:0:0:0:3"))
def test_an_address_has_one_text(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    for text in (str(address), address.exploded, address.exploded.upper()):
        assert normal_address(text) == expected(text)


@given(st.text("0123456789abcdefx.:%", max_size=20))
def test_a_text_is_an_address_or_none(text: str) -> None:
    if "%" not in text:
        assert normal_address(text) == expected(text)


@pytest.mark.parametrize(
    "text", ["", "1.2.3", "1.2.3.04", "1.2.3.256", "1.2.3.4 ", " ::1", "1::2::3", ":::", "[::1]", "a\0", "ä"]
)
def test_what_is_no_address(text: str) -> None:
    assert normal_address(text) is None
