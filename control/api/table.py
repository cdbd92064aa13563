"""One table of operations, which both the routes and the OpenAPI document are made from: they cannot drift apart.

An operation says what it takes and what it answers, as types; what it takes has been checked against them before its
handler is called.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

from aiohttp import web
from pydantic import BaseModel, TypeAdapter

from control.api.bodies import Body, Empty, NoQuery, Query
from control.api.context import Context, Parts
from control.api.gate import Principal
from control.api.reading import in_path, read_body, read_query
from health.model import Scope

JSON = "application/json"
CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
B = TypeVar("B", bound=Body)
Q = TypeVar("Q", bound=Query)


@dataclass(slots=True)
class Call(Generic[B, Q]):
    """One request, understood. `subject` is what the audit log names."""

    request: web.Request
    here: Context
    parts: Parts
    who: Principal
    path: dict[str, str]
    body: B
    query: Q
    subject: str

    @property
    def if_match(self) -> str | None:
        """The version the client wants to change, without quotes; None where it does not care (RFC 9110, 13.1.1)."""
        text = self.request.headers.get("If-Match", "*").strip()
        return None if text == "*" else text.removeprefix("W/").strip('"')


@dataclass(frozen=True, slots=True)
class Answer:
    """A value with another status than the operation's usual one, or with header fields."""

    value: Any
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)


Handler = Callable[[Call[B, Q]], Awaitable[Any]]


@dataclass(frozen=True)
class Operation:
    """One method of one path.

    `scope` None: open to all. `answer` is the type of the JSON answered, None where `media` is another type.
    `statuses` are those of success, `refusals` those beside the ones that follow from what it takes.
    `body_as_query`: fields of the body may stand in the query instead. `may_be_open`: `control.metrics_open` opens it.
    """

    method: str
    path: str
    name: str
    tag: str
    summary: str
    description: str
    scope: Scope | None
    answer: Any
    statuses: tuple[int, ...]
    refusals: tuple[int, ...]
    body: type[Body]
    query: type[Query]
    media: str
    body_as_query: bool
    if_match: bool
    may_be_open: bool
    handler: Callable[[Call[Any, Any]], Awaitable[Any]]

    @cached_property
    def changes(self) -> bool:
        return self.method in CHANGING

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.answer)

    async def run(
        self, request: web.Request, here: Context, made: Parts, who: Principal
    ) -> tuple[web.StreamResponse, str]:
        """Understand `request`, do it, and answer; also the subject for the audit log. Raises what handlers raise."""
        path = in_path(request.match_info) if request.match_info else {}
        query = NoQuery() if self.body_as_query else read_query(request, self.query)
        body = await read_body(request, self.body, query=self.body_as_query) if self.changes else _EMPTY
        subject = next(iter(path.values()), getattr(body, "name", "")) if self.changes else ""
        call = Call(request, here, made, who, path, body, query, subject)
        value = await self.handler(call)
        return self.response(value), call.subject

    def response(self, value: Any) -> web.StreamResponse:
        """`value`, as it goes out."""
        if isinstance(value, web.StreamResponse):
            return value
        answer = value if isinstance(value, Answer) else Answer(value)
        return web.Response(
            body=self.adapter.dump_json(answer.value),
            status=answer.status or self.statuses[0],
            content_type=JSON,
            headers=answer.headers,
        )


_EMPTY = Empty()


class Table:
    """The operations of one topic, in the order of the document."""

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self.operations: list[Operation] = []

    def add(
        self,
        method: str,
        path: str,
        name: str,
        *,
        answer: Any = None,
        scope: Scope | None = Scope.READ,
        statuses: Iterable[int] = (200,),
        refusals: Iterable[int] = (),
        body: type[B] = Empty,  # type: ignore[assignment]
        query: type[Q] = NoQuery,  # type: ignore[assignment]
        media: str = JSON,
        body_as_query: bool = False,
        if_match: bool = False,
        may_be_open: bool = False,
    ) -> Callable[[Handler[B, Q]], Handler[B, Q]]:
        """Enter the decorated handler. Its docstring is the summary and, after a blank line, the description."""

        def enter(handler: Handler[B, Q]) -> Handler[B, Q]:
            summary, _, description = (handler.__doc__ or "").strip().partition("\n\n")
            self.operations.append(
                Operation(
                    method=method,
                    path=path,
                    name=name,
                    tag=self._tag,
                    summary=" ".join(summary.split()),
                    description=" ".join(description.split()),
                    scope=scope,
                    answer=answer,
                    statuses=tuple(statuses),
                    refusals=tuple(refusals),
                    body=body,
                    query=query,
                    media=media,
                    body_as_query=body_as_query,
                    if_match=if_match,
                    may_be_open=may_be_open,
                    handler=handler,
                )
            )
            return handler

        return enter


class Refusal(BaseModel):
    """Why a request was not granted: words for people, and one for programs."""

    detail: str
    status: int
    reason: str
