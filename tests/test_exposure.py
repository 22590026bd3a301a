"""Plain HTTP stays on this machine unless it is spelt out, twice."""

import pytest

from skerry.errors import ConfigError
from skerry.exposure import check_url, is_loopback


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("192.168.1.7", False),
        ("localhost.example.org", False),
        ("", False),
    ],
)
def test_what_can_only_be_this_machine(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize("url", ["https://eu.example.org:8470", "https://[2001:db8::1]", "https://127.0.0.1:1/"])
def test_https_is_always_fine(url: str) -> None:
    check_url(url, insecure=False)


def test_plain_http_needs_one_word_here_and_two_elsewhere() -> None:
    with pytest.raises(ConfigError, match="spell out `insecure = true`"):
        check_url("http://127.0.0.1:8470", insecure=False, beyond_loopback=True)
    check_url("http://127.0.0.1:8470", insecure=True)
    with pytest.raises(ConfigError, match="insecure_beyond_loopback"):
        check_url("http://192.168.1.7:8470", insecure=True)
    check_url("http://192.168.1.7:8470", insecure=True, beyond_loopback=True)
    with pytest.raises(ConfigError, match="spell out `insecure = true`"):
        check_url("http://192.168.1.7:8470", insecure=False, beyond_loopback=True)


@pytest.mark.parametrize("url", ["", "ftp://x", "eu:8470", "https://", "https://x:99999", "http://["])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ConfigError):
        check_url(url, insecure=True, beyond_loopback=True)
