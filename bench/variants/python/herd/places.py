"""Google's Places Nearby Search (legacy): requests and replies.

The variants fetch the URL in their own way. A result is passed on as Google's JSON has it, but
written again, so numbers may look different; results outside the radius are not left out.
"""

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from herd.records import Search

KEY_VARIABLE = "GOOGLE_PLACES_API_KEY"
"""The environment variable of the API key; a flag would show it to every user."""

TIMEOUT = 3.0
"""Seconds for a whole search; past this the client gets `UNKNOWN_ERROR`."""

MAX_BODY = 2 << 20
"""Bytes that an answer may have; a longer one is an error."""

FAILURES = {"INVALID_REQUEST", "OVER_QUERY_LIMIT", "REQUEST_DENIED", "UNKNOWN_ERROR"}


@dataclass(frozen=True, slots=True)
class Provider:
    """The service that answers searches."""

    url: str
    key: str

    def search_url(self, search: Search) -> str:
        """The URL of a search."""
        second = max(search.location.rfind("+"), search.location.rfind("-"))
        latitude, longitude = search.location[:second], search.location[second:]
        query = urlencode(
            {
                "location": f"{latitude.removeprefix('+')},{longitude.removeprefix('+')}",
                "radius": round(search.radius_km * 1000),
                "key": self.key,
            },
            safe=",",
        )
        return f"{self.url}{'&' if '?' in self.url else '?'}{query}"

    def failure(self, what: str, status: str = "UNKNOWN_ERROR") -> bytes:
        """The answer when the search failed; `what` says why, and what to do."""
        return self._dump({"results": [], "status": status, "error_message": what})

    def unreachable(self, why: str) -> bytes:
        """The answer when the provider could not be asked."""
        return self.failure(f"The places provider could not be asked ({why}). Try again.")

    def answer(self, body: bytes, search: Search) -> bytes:
        """The JSON text for a client out of what the provider sent."""
        try:
            page = json.loads(body)
            status, results = page["status"], page.get("results", [])
            if not isinstance(results, list) or not all(isinstance(r, dict) for r in results):
                raise ValueError
        except (ValueError, TypeError, KeyError, AttributeError):
            return self.failure("The places provider's answer is not in Google's format. Check --places-url.")
        if status in FAILURES:
            message = page.get("error_message") or "The places provider refused. Check its key and quota."
            return self.failure(str(message), status)
        if status not in ("OK", "ZERO_RESULTS"):
            return self.failure("The places provider's status is none of Google's. Check --places-url.")
        results = results[: search.bound]
        return self._dump(
            {
                "html_attributions": page.get("html_attributions"),
                "results": results,
                "status": "OK" if results else "ZERO_RESULTS",
            }
        )

    def _dump(self, answer: dict[str, Any]) -> bytes:
        if not isinstance(answer.get("html_attributions"), list):
            answer = {"html_attributions": []} | answer | {"html_attributions": []}
        text = json.dumps(answer, ensure_ascii=False).encode(errors="surrogatepass")
        return text.replace(self.key.encode(), b"(key)")
