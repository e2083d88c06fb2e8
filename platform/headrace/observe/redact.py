"""Keeping secrets out of what is shown of a recipe."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "(hidden)"

_SECRET_NAME = re.compile(
    r"(secret|password|passwd|passphrase|credentials?|api_?key|access_key|access_key_id|account_key|private_key"
    r"|(^|_)(access|auth|api|session|bearer|hf|sas)_token|^token)$",
    re.IGNORECASE,
)
_USER_IN_URL = re.compile(r"(?<=://)[^/\s@]+@")


def redacted(value: Any, name: str = "") -> Any:
    """Return a copy of a JSON value in which texts under a secret's name, and users in URLs, are hidden."""
    if isinstance(value, dict):
        return {key: redacted(item, str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(item, name) for item in value]
    if not isinstance(value, str) or not value:
        return value
    return HIDDEN if _SECRET_NAME.search(name) else _USER_IN_URL.sub(f"{HIDDEN}@", value)
