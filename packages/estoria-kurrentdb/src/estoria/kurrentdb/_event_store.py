"""The event store on KurrentDB."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

from kurrentdbclient import AsyncKurrentDBClient
from kurrentdbclient.exceptions import StreamIsDeletedError, WrongCurrentVersionError

from estoria.core import (
    Appended,
    Event,
    EventIterator,
    Expect,
    NewEvent,
    StoreUnavailableError,
    StreamInfo,
    StreamIterator,
    StreamNotFoundError,
    TypeID,
)
from estoria.core.backends import (
    GlobalIterator,
    GlobalPage,
    check_events,
    check_expectation,
    check_filter,
    check_stream_id,
    check_truncation,
)
from estoria.kurrentdb._appending import Appender
from estoria.kurrentdb._connect import open_client
from estoria.kurrentdb._connection import Connection
from estoria.kurrentdb._errors import NodeBehindError, StreamDeletedError
from estoria.kurrentdb._names import Names, is_wanted, one_of
from estoria.kurrentdb._reading import StreamReader, stream_info
from estoria.kurrentdb._schema import TRUNCATE_BEFORE, event_of

MAX_EVENT_BYTES = 16 * 2**20 - 2**17
RETRY_SECONDS = 15.0

_ATTEMPTS = 20
_PAGE_RECORDS = 2_000


class KurrentDBEventStore:
    """Keeps each stream in a stream of KurrentDB, named ``user_<uuid>`` or ``prefix.user_<uuid>``.

    Nobody waits for anybody: the server takes one append after the other, and readers see what
    was acknowledged to the node that they ask.
    """

    def __init__(
        self,
        client: AsyncKurrentDBClient,
        *,
        prefix: str = "",
        max_event_bytes: int = MAX_EVENT_BYTES,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        """Takes a client and never closes it.

        `prefix` keeps applications apart that share a server: letters, digits, dashes and
        underscores. `max_event_bytes` bounds one payload; the server's own limit counts too.
        A request that fails in a way that passes is repeated for `retry_seconds`.
        """
        self.max_event_bytes = max_event_bytes
        self._names = Names(prefix)
        self._connection = Connection(client, retry_seconds)
        self._appender = Appender(self._connection)

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        url: str,
        *,
        max_event_bytes: int = MAX_EVENT_BYTES,
        retry_seconds: float = RETRY_SECONDS,
    ) -> AsyncIterator["KurrentDBEventStore"]:
        """A store on the server of this URL, with a client that it opens and closes.

        ``kurrentdb://user:password@host:2113``, with everything that the client takes
        (``tls=false``, ``tlsCaFile=FILE``, ``nodePreference=...``), and ``prefix=NAME``.

        Raises `ValueError` for a URL that can't be read, and `StoreUnavailableError` when
        nobody answers there.
        """
        async with open_client(url) as (client, prefix):
            store = cls(
                client,
                prefix=prefix,
                max_event_bytes=max_event_bytes,
                retry_seconds=retry_seconds,
            )
            await store.setup()
            yield store

    async def setup(self) -> None:
        """Nothing to create; makes sure that the server answers."""
        await self._connection.head()

    async def append_stream(
        self,
        stream_id: TypeID,
        events: Sequence[NewEvent],
        *,
        expect: Expect | int = Expect.ANY,
    ) -> Appended:
        """See `EventStore.append_stream`. Raises `StreamDeletedError` for a deleted stream."""
        self._connection.check()
        expected = check_expectation(expect)
        batch = check_events(stream_id, events, self.max_event_bytes)
        if not batch:
            return Appended()
        return await self._appender.append(stream_id, self._names.of(stream_id), batch, expected)

    def read_stream(
        self,
        stream_id: TypeID,
        *,
        after_version: int = 0,
        reverse: bool = False,
        before_version: int | None = None,
        count: int | None = None,
    ) -> StreamIterator:
        """See `EventStore.read_stream`. Raises `StreamDeletedError` for a deleted stream."""
        reader: StreamReader | None = None

        async def fetch(
            first: int, last: int, limit: int
        ) -> tuple[StreamInfo | None, Sequence[Event]]:
            nonlocal reader
            if reader is None:
                name = self._names.of(stream_id)
                reader = StreamReader(self._connection, stream_id, name, reverse=reverse)
            return await reader.page(first, last, limit)

        return StreamIterator(
            fetch,
            stream_id,
            after_version=after_version,
            reverse=reverse,
            before_version=before_version,
            count=count,
        )

    def read_all(
        self,
        *,
        after_position: int = 0,
        count: int | None = None,
        stream_types: Collection[str] | None = None,
        event_types: Collection[str] | None = None,
    ) -> EventIterator:
        """See `GlobalReader.read_all`. Raises `NodeBehindError` on a node that lags behind."""
        of_streams = check_filter("stream_types", stream_types)
        of_events = check_filter("event_types", event_types)
        # The server filters by one of the two; streams tell foreign records apart as well.
        by_stream = of_events is None or of_streams is not None or self._names.has_prefix
        pattern = self._names.pattern(of_streams) if by_stream else one_of(of_events or ())

        async def fetch(after: int, frontier: int | None, limit: int) -> GlobalPage:
            head = await self._connection.head()
            if frontier is None:
                frontier = head
            elif head < frontier:
                raise NodeBehindError(self._connection.where, frontier, head)
            if after >= frontier:
                return GlobalPage((), frontier, None)
            records = await self._connection.all(after, limit, pattern, by_stream=by_stream)
            events: list[Event] = []
            for record in records.found:
                if record.commit_position > frontier:
                    return GlobalPage(events, frontier, None)
                stream_id = self._names.parse(record.stream_name)
                if stream_id is None or not is_wanted(stream_id.type, of_streams):
                    continue
                if of_events is None or record.type in of_events:
                    events.append(event_of(record, stream_id))
            resume_after = None if records.has_ended else records.found[-1].commit_position
            return GlobalPage(events, frontier, resume_after)

        return GlobalIterator(
            fetch, after_position=after_position, count=count, page_events=_PAGE_RECORDS
        )

    async def head_position(self) -> int:
        """See `GlobalReader.head_position`; the last record of all, whoever wrote it."""
        return await self._connection.head()

    async def truncate_stream(self, stream_id: TypeID, to_version: int) -> None:
        """See `StreamTruncator.truncate_stream`; sets ``$tb``, by compare-and-set.

        `read_all` goes on showing what is truncated until the server is scavenged.
        """
        self._connection.check()
        check_stream_id(stream_id)
        name = self._names.of(stream_id)
        client = self._connection.client
        for _ in range(_ATTEMPTS):
            retention = await self._connection.retention(stream_id, name)
            if await self._connection.stream(stream_id, name, backwards=True, limit=1) is None:
                raise StreamNotFoundError(stream_id)
            check_truncation(await stream_info(self._connection, stream_id, name), to_version)
            if retention.truncated_before >= to_version:
                return
            metadata = {**retention.metadata, TRUNCATE_BEFORE: to_version}
            try:
                await self._connection.run(
                    lambda: client.set_stream_metadata(
                        name,
                        metadata=metadata,  # noqa: B023 - called before the next round
                        current_version=retention.revision,  # noqa: B023 - likewise
                        timeout=self._connection.deadline,
                    )
                )
            except WrongCurrentVersionError:
                continue
            except StreamIsDeletedError as error:
                raise StreamDeletedError(stream_id, tombstoned=True) from error
            self._appender.forget(name)
            return
        raise StoreUnavailableError(
            self._connection.where, "the stream's metadata are changed all the time: try again"
        )
