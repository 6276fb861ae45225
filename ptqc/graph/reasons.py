"""Messages of libraries as part of ours: one short line without control characters or places in their source."""

import re

from ptqc.core.errors import quoted

_ASSERTION = re.compile(r"\S+:\d+: \S+: Assertion [`'].*?' failed: ?")


def reason_of(error: BaseException, limit: int = 240) -> str:
    """What ``error`` says, escaped and shortened."""
    text = " ".join(str(error).split()) or type(error).__name__
    return quoted(_ASSERTION.sub("", text) or text, limit)[1:-1]
