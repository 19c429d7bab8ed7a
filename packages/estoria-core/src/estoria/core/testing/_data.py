"""Clauses on what events may hold."""

import unicodedata

import pytest

from estoria.core import EventStore, EventTooLargeError, NewEvent, StreamNotFoundError, TypeID
from estoria.core.testing._acceptance import Acceptance
from estoria.core.testing._samples import as_given, first_difference, new_events, versions

ODD_TEXTS = {
    "astral": "🧾💶𝔘",
    "composed": unicodedata.normalize("NFC", "é"),
    "decomposed": unicodedata.normalize("NFD", "é"),
    "right-to-left": "\u202eحساب שלום",
    "quotes": 'it\'s a "quoted" `name`; DROP TABLE events; --',
    "wildcards": "100%_off*[a-z]?\\",
    "paths": "a.b.$c.d$",
    "controls": "\t\r\n\x01\x1f\x7f",
    "spaces": "  two spaces around  ",
    "braces": "{}{tag}%s%(x)s:name",
    "case": "Case case CASE",
    "zero-width": "a\u200bb\u2060c\ufeff",
    "last": "\ufdd0\uffff\U0010ffff",
}


class DataAcceptance(Acceptance):
    """Everything comes back as it was given, or is refused by name."""

    @pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS.keys())
    async def test_names_and_metadata_hold_any_text(self, store: EventStore, text: str) -> None:
        """No text is normalised, cut, escaped or taken for a command."""
        event = NewEvent(f"x{text}", text.encode(), f"text/{text}", {text: text, "": text})
        stream_id = TypeID.new(f"x{text}x")

        await store.append_stream(stream_id, [event])
        stored = await store.read_stream(stream_id).collect()

        assert [event] == as_given(stored)
        assert stream_id == stored[0].stream_id

    async def test_names_that_differ_a_little_are_different(self, store: EventStore) -> None:
        """By case, by composition, by a space: other streams."""
        names = ["name", "Name", "name ", " name", "é", "e\u0301", "n%me", "n_me"]
        uuid = TypeID.new("x").uuid
        for size, name in enumerate(names, start=1):
            await store.append_stream(TypeID(name, uuid), new_events(size))

        for size, name in enumerate(names, start=1):
            assert list(range(1, size + 1)) == await versions(store, TypeID(name, uuid))

    async def test_names_may_be_255_characters_long(self, store: EventStore) -> None:
        """Characters, not bytes: four bytes each where they are astral."""
        event = NewEvent("🧾" * 255, b"", "c" * 255)
        stream_id = TypeID.new("𝔘" * 255)

        await store.append_stream(stream_id, [event])

        stored = await store.read_stream(stream_id).collect()
        assert [event] == as_given(stored)
        assert stream_id == stored[0].stream_id

    @pytest.mark.parametrize("size", [0, 1, 2**20])
    async def test_payloads_of_this_size_come_back(self, store: EventStore, size: int) -> None:
        """Any bytes at all, NUL included."""
        data = (bytes(range(256)) * (size // 256 + 1))[:size]
        stream_id = TypeID.new("file")

        await store.append_stream(stream_id, [NewEvent("uploaded", data)])

        stored = await store.read_stream(stream_id).collect()
        assert data == stored[0].data

    async def test_a_large_payload_comes_back_or_is_refused_by_name(
        self, store: EventStore
    ) -> None:
        """Eight MiB: stored whole, or refused with the limit and nothing written."""
        data = bytes(8 * 2**20)
        stream_id = TypeID.new("file")

        try:
            await store.append_stream(stream_id, [NewEvent("uploaded", data)])
        except EventTooLargeError as error:
            assert error.limit < error.size == len(data)
            with pytest.raises(StreamNotFoundError):
                await store.read_stream(stream_id).collect()
        else:
            stored = await store.read_stream(stream_id).collect()
            assert data == stored[0].data

    async def test_metadata_may_be_large(self, store: EventStore) -> None:
        """A thousand keys, and a value of 64 KiB."""
        metadata = {f"key {n}": str(n) for n in range(1_000)} | {"long": "x" * 2**16}
        stream_id = TypeID.new("account")

        await store.append_stream(stream_id, [NewEvent("seen", b"", "", metadata)])

        stored = await store.read_stream(stream_id).collect()
        assert metadata == stored[0].metadata

    async def test_a_batch_of_a_thousand_is_one_append(self, store: EventStore) -> None:
        """All of them, in order, next to each other, with one timestamp or growing ones."""
        stream_id, batch = TypeID.new("account"), new_events(1_000)

        appended = await store.append_stream(stream_id, batch)

        stored = await store.read_stream(stream_id).collect()
        assert None is first_difference(batch, as_given(stored))
        assert None is first_difference(range(1, 1_001), [e.stream_version for e in appended])
        times = [event.timestamp for event in appended]
        assert times == sorted(times)
