"""The one paged list: all objects at a path, some hundred to a call.

Owns the size of a page, the way from one page to the next, and when a page is asked for again. Must not know what is
listed. What a list that could not be completed means is the caller's decision.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, assert_never

from worklease.cluster.client import Done, KubernetesApi, NoAnswer, Refused

PAGE: Final = 500
"""Objects listed in one call, as kubectl does."""

RETRY: Final = 1.0
"""Seconds between two tries of a page."""

Page = Sequence[Mapping[str, Any]]
"""The objects of one page."""


async def list_pages(
    api: KubernetesApi,
    path: str,
    query: Mapping[str, str],
    *,
    accept: str = "application/json",
    tries: int = 1,
) -> AsyncIterator[Page | Refused | NoAnswer]:
    """List the objects at ``path``, page by page; what was refused or not answered is the last, and ends the list.

    Each page but the first is asked for up to ``tries`` times, so that a long list is not given up for one bad answer.
    A list that became too old (410 Gone) is given up at once: the API server does not know its next page any more.
    """
    asked = {"limit": str(PAGE), **query}
    failures = 0
    while True:
        match await api.call("GET", path, query=asked, accept=accept):
            case Done(body):
                failures = 0
                yield body.get("items") or ()
                token = (body.get("metadata") or {}).get("continue")
                if not token:
                    return
                asked["continue"] = token
            case (Refused() | NoAnswer()) as failure:
                failures += 1
                is_outdated = isinstance(failure, Refused) and failure.status == HTTPStatus.GONE
                if is_outdated or failures >= tries or "continue" not in asked:
                    yield failure
                    return
                await asyncio.sleep(RETRY)
            case reply:
                assert_never(reply)
