"""Secrets in what is about to leave for a hosted teacher: found by detect-secrets, and blotted out."""

import re
from functools import cache
from typing import Any

BLOT = "[REDACTED]"
PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----|\Z)", re.DOTALL
)


def redacted(text: str) -> tuple[str, int]:
    """The text without its secrets, and how many there were."""
    text, count = PRIVATE_KEY.subn(BLOT, text)

    def blot(found: re.Match[str]) -> str:
        nonlocal count
        if not any(plugin.analyze_string(found.group())):  # it may check more than the form
            return found.group()
        count += 1
        return BLOT

    for plugin in _plugins():
        for pattern in plugin.denylist:  # not what analyze_string gives: that can be a part of the secret
            text = pattern.sub(blot, text)
    return text, count


@cache
def _plugins() -> tuple[Any, ...]:
    """Those that know the form of what they look for. Entropy and keywords would blot out good code."""
    from detect_secrets.plugins.artifactory import ArtifactoryDetector
    from detect_secrets.plugins.aws import AWSKeyDetector
    from detect_secrets.plugins.azure_storage_key import AzureStorageKeyDetector
    from detect_secrets.plugins.github_token import GitHubTokenDetector
    from detect_secrets.plugins.gitlab_token import GitLabTokenDetector
    from detect_secrets.plugins.jwt import JwtTokenDetector
    from detect_secrets.plugins.npm import NpmDetector
    from detect_secrets.plugins.openai import OpenAIDetector
    from detect_secrets.plugins.pypi_token import PypiTokenDetector
    from detect_secrets.plugins.sendgrid import SendGridDetector
    from detect_secrets.plugins.slack import SlackDetector
    from detect_secrets.plugins.stripe import StripeDetector

    detectors = (
        ArtifactoryDetector,
        AWSKeyDetector,
        AzureStorageKeyDetector,
        GitHubTokenDetector,
        GitLabTokenDetector,
        JwtTokenDetector,
        NpmDetector,
        OpenAIDetector,
        PypiTokenDetector,
        SendGridDetector,
        SlackDetector,
        StripeDetector,
    )
    return tuple(detector() for detector in detectors)
