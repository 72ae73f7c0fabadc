"""huggingface_hub as we use it, and what its failures mean to a person."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...atomic import NO_SPACE, explained
from ...errors import HubError, MissingDependency, ShiraError

_OF_DISKS = {*NO_SPACE, errno.EACCES, errno.EROFS, errno.EPERM}
_SAYS = {
    400: "the hub refused it",
    401: "the hub does not know you: log in with `hf auth login`, or give a token",
    403: "your login may not do that: ask for rights, or use a token that may write",
    404: "it is not there, or is private and your login may not see it: check the name",
    409: "it was changed at the same time: try again",
    413: "it is too large for the hub",
    429: "the hub was asked too often",
}
_BROKEN = "the hub has a problem of its own: try again later"
_GATED = "its authors ask for consent: accept their terms on its page, then `hf auth login`"


def library() -> Any:
    """Return huggingface_hub; raises MissingDependency."""
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError:
        raise MissingDependency('this needs huggingface_hub: pip install "shira[share]"') from None
    return huggingface_hub


@contextlib.contextmanager
def asking(what: str, folder: Path | None = None) -> Iterator[None]:
    """Turn whatever huggingface_hub raises into one of our errors.

    what: is done, for the message: "push me/style". folder: that is written to. Raises HubError,
    and WriteFailed where a disk is full or refuses. The library's own errors, those of its
    transports (httpx, hf_xet) and of the operating system have no common base.
    """
    try:
        yield
    except ShiraError:
        raise
    except Exception as error:
        chain = list(_chain(error))
        for each in chain:
            if folder and isinstance(each, OSError) and each.errno in _OF_DISKS:
                raise explained(each, folder) from error
        raise HubError(f"cannot {what}: {_meaning(chain)}") from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it was raised from, which is what the server said."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _meaning(chain: list[BaseException]) -> str:
    for error in chain:
        response = getattr(error, "response", None)
        if response is not None:
            return _answered(error, response)
    kinds = {kind.__name__ for error in chain for kind in type(error).__mro__}
    if kinds & {"ConnectError", "ConnectionError", "TransportError", "TimeoutError"}:
        return f"the hub cannot be reached ({_short(chain[-1])}): check the connection, try again"
    return _short(chain[0])


def _answered(error: BaseException, response: Any) -> str:
    """Say what an answer of the hub means."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in kinds:
        return _GATED
    if "RevisionNotFoundError" in kinds:
        return "it has no such revision: check the name after @"
    if response.status_code == 429:
        wait = str(response.headers.get("Retry-After") or "")
        return f"{_SAYS[429]}: try again in " + (f"{wait} s" if wait.isdigit() else "some minutes")
    says = _SAYS.get(response.status_code, _BROKEN if response.status_code >= 500 else _SAYS[400])
    detail = getattr(error, "server_message", None)
    return f"{says} ({response.status_code}{': ' + _short(detail) if detail else ''})"


def _short(what: object) -> str:
    """Return the first line of a message, with its kind where it has none."""
    lines = [line for each in str(what).splitlines() if (line := each.strip())]
    return (lines[0] if lines else type(what).__name__)[:200]
