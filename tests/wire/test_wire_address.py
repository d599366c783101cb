"""Addresses: well formed, and on this machine."""

from __future__ import annotations

import pytest

from crayon.errors import ConfigError
from crayon.wire.address import check_local, is_name, join, split

GOOD = ["127.0.0.1:50051", "localhost:1", "[::1]:65535", "127.9.9.9:80", "unix:/tmp/x.sock"]


@pytest.mark.parametrize("address", GOOD)
def test_addresses_of_this_machine_are_taken(address: str) -> None:
    assert check_local(address, "server") == address


@pytest.mark.parametrize("address", ["", "localhost", "localhost:", ":50051", "localhost:0", "localhost:65536", "a:b"])
def test_malformed_addresses_are_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"^server: must be host:port"):
        check_local(address, "server")


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "192.168.1.2:1", "example.org:1", "localhost.evil.org:1"])
def test_other_machines_are_refused_with_the_way_out(address: str) -> None:
    with pytest.raises(ConfigError, match=r"plain text; use TLS .* or an SSH tunnel"):
        check_local(address, "server")


def test_lists_are_split_and_lists_are_no_address() -> None:
    assert split(" a:1, b:2,,a:1 ", "server") == ("a:1", "b:2")
    for none in ("", " , "):
        with pytest.raises(ConfigError, match=r"^server: must be host:port"):
            split(none, "server")
    with pytest.raises(ConfigError, match=r"^server: must be host:port"):
        check_local("127.0.0.1:1,127.0.0.1:2", "server")


def test_names_are_told_from_addresses() -> None:
    assert [is_name(host) for host in ("a.example", "x")] == [True, True]
    assert not any(is_name(host) for host in ("127.0.0.1", "::1", "192.0.2.7", "localhost", "unix:/a"))


def test_joining() -> None:
    assert [join("::1", 5), join("localhost", 5), join("unix:/x", 5)] == ["[::1]:5", "localhost:5", "unix:/x"]
