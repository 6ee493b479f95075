"""Requests and answers whose bytes are charged to the budget of what is in flight."""

from collections.abc import AsyncGenerator

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.budget import Budget, Charge


class CountedResponse(Response):
    """An answer whose bytes are charged until the client has read them, even beyond the budget."""

    def __init__(
        self, budget: Budget, content: bytes, *, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(content, headers={"Content-Type": "application/json"} | (headers or {}))
        self._budget = budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        with self._budget.open() as charge:
            charge.overdraw(len(self.body))
            await super().__call__(scope, receive, send)


class CountedRequest(Request):
    """A request whose body is charged as it arrives, or refused if its stated length cannot fit."""

    def __init__(self, request: Request, charge: Charge) -> None:
        super().__init__(request.scope, request.receive)
        self._charge = charge
        declared = request.headers.get("content-length", "")
        if declared.isascii() and declared.isdecimal() and len(declared) < 20:
            charge.check(int(declared))

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the body's chunks; raises what `Charge.add` raises."""
        async for chunk in super().stream():
            self._charge.add(len(chunk))
            yield chunk
