"""Secrets are known by their forms; what only looks odd is left alone."""

import pytest

from reflux import leaks

SECRETS = [
    "rfx_" + "aB3-_x" * 6,
    "AKIA" + "ABCDEFGH12345678",
    "sk-proj-" + "a1B2" * 8,
    "hf_" + "a1B2" * 9,
    "ghp_" + "a1B2" * 9,
    "xoxb-1234567890-abcdef",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_blotted_out_wherever_it_stands(secret: str) -> None:
    assert leaks.redacted(f"before {secret}, after") == f"before {leaks.BLOT}, after"
    assert list(leaks.places({"a": [{"b": f"x {secret}"}], "c": "x", secret: 1})) == ["a.0.b", "the spec"]


def test_urls_headers_and_private_keys() -> None:
    assert (
        leaks.redacted("at redis://:x@h and https://me:pa55@host/path") == f"at redis://:x@h and https://{leaks.BLOT}@host/path"
    )
    assert leaks.redacted("Authorization: Bearer abcdefghijklmnopqrstuvwxyz") == f"Authorization: Bearer {leaks.BLOT}"
    key = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----"
    assert leaks.redacted(f"x{key}y") == f"x{leaks.BLOT}y"


@pytest.mark.parametrize(
    "text",
    ["s3://bucket/tsn", "task-sk-1", "risk-management-of-the-gate-control-list", "0a" * 32, "git@host:x", "http://h:80/a@b"],
)
def test_what_is_no_secret(text: str) -> None:
    assert leaks.redacted(text) == text
