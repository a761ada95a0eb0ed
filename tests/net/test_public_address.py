"""URLs that may be fetched or posted to, and addresses that are public."""

from ipaddress import ip_address

import pytest

from inferd.services.net.public_address import AddressNotAllowed, check_url, is_public


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "http://example.com:8080/hook?token=a%2Fb",
        "https://EXAMPLE.com./",
        "https://bücher.example/",
        "http://my_service.example/",
        "http://8.8.8.8/",
        "http://[2606:4700:4700::1111]:443/",
    ],
)
def test_urls_that_are_allowed(url):
    check_url(url, allow_private=False)
    check_url(url, allow_private=True)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "must begin with http"),
        ("example.com/hook", "must begin with http"),
        ("//example.com/hook", "must begin with http"),
        ("ftp://example.com/", "must begin with http"),
        ("file:///etc/passwd", "must begin with http"),
        (" http://example.com/", "URL"),
        ("http://", "no host"),
        ("http:/hook", "no host"),
        ("http://:80/", "no host"),
        ("http://user@example.com/", "must not have a user name"),
        ("http://user:password@example.com/", "must not have a user name"),
        ("http://example.com\\@127.0.0.1/", "must not have a user name"),
        ("http://example.com/#part", "must not have a fragment"),
        ("http://example.com/#", "must not have a fragment"),
        ("http://example.com:0/", "port"),
        ("http://example.com:65536/", "port"),
        ("http://example.com:http/", "not valid"),
        ("http://exam ple.com/", "host is not valid"),
        ("http://127%2e0.0.1/", "host is not valid"),
        ("http://a..b/", "host is not valid"),
        (f"http://{'a' * 64}.example/", "host is not valid"),
        ("http://127.0.0.256/", "not valid"),
        ("http://[::1/", "not valid"),
        ("http://example.com/\r\nx: y", "not valid"),
        ("http://\uff11\uff12\uff17.0.0.1/", "not valid"),
    ],
)
@pytest.mark.parametrize("allow_private", [False, True])
def test_urls_that_are_not_valid(url, message, allow_private):
    with pytest.raises(AddressNotAllowed, match=message):
        check_url(url, allow_private=allow_private)


@pytest.mark.parametrize("address", ["8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2606:4700:4700::1111"])
def test_public_addresses(address):
    assert is_public(ip_address(address))
