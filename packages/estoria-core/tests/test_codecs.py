"""JSON payloads: exact, or refused."""

import enum
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest

from estoria.core import (
    EventDecodingError,
    EventEncodingError,
    EventSourcedStore,
    JSONEventCodec,
    JSONStateCodec,
    NewEvent,
    TypeID,
)
from estoria.core.memory import MemoryEventStore

pytestmark = pytest.mark.anyio


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Line:
    sku: str
    price: Decimal


@dataclass(frozen=True)
class AsDataclass:
    id: UUID
    at: datetime
    on: date
    price: Decimal
    colour: Colour
    lines: list[Line]
    tags: set[str] = field(default_factory=set)
    blob: bytes = b""
    ratio: float = 0.5
    nothing: int | None = None


class AsStruct(msgspec.Struct, frozen=True):
    id: UUID
    at: datetime
    on: date
    price: Decimal
    colour: Colour
    lines: list[Line]
    nested: dict[str, list[int]] = {}


@attrs.frozen
class AsAttrs:
    id: UUID
    at: datetime
    on: date
    price: Decimal
    colour: Colour
    lines: list[Line]


class AsModel(pydantic.BaseModel):
    id: UUID
    at: datetime
    on: date
    price: Decimal
    colour: Colour
    lines: list[Line]
    ratio: float = 0.5


FIELDS: dict[str, Any] = {
    "id": UUID("9791012c-cd5b-4795-9c54-6085975d599b"),
    "at": datetime(2024, 2, 29, 1, 2, 3, 123_456, timezone(timedelta(hours=5))),
    "on": date(2024, 2, 29),
    "price": Decimal("12345678901234567890.000000000000000001"),
    "colour": Colour.BLUE,
    "lines": [Line("a\0b🧾\u202e", Decimal("0.10")), Line("", Decimal(0))],
}


@pytest.mark.parametrize("event_class", [AsDataclass, AsStruct, AsAttrs, AsModel])
def test_every_kind_of_class_comes_back(event_class):
    codec, event = JSONEventCodec(), event_class(**FIELDS)

    decoded = codec.decoder(event_class)(codec.encode(event))

    assert decoded == event
    assert type(decoded) is event_class
    assert str(decoded.price) == str(event.price)


@dataclass
class Holder:
    value: Any


@dataclass
class Floats:
    value: float | None


@pytest.mark.parametrize("number", [2**63, 2**64, -(2**70), 10**300])
def test_huge_integers_come_back(number):
    codec = JSONEventCodec()

    assert codec.decoder(Holder)(codec.encode(Holder(number))) == Holder(number)


class FloatModel(pydantic.BaseModel):
    value: Any


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "wrap",
    [
        Holder,
        Floats,
        lambda x: Holder([1, {"a": (x,)}]),
        lambda x: Holder({x}),
        lambda x: Holder(AsStructFloat(x)),
        lambda x: Holder(AttrsFloat(x)),
        lambda x: FloatModel(value=x),
        lambda x: Holder(FloatModel(value=[x])),
        lambda x: FloatModel(value={"a": Holder(x)}),
    ],
    ids=range(9),
)
def test_what_is_no_number_is_refused(bad, wrap):
    """msgspec and pydantic write null for it, which reads back as something else."""
    with pytest.raises(EventEncodingError, match="nan|inf"):
        JSONEventCodec().encode(wrap(bad))


class AsStructFloat(msgspec.Struct):
    value: float


@attrs.define
class AttrsFloat:
    value: float


def test_null_is_no_reason_to_refuse():
    codec = JSONEventCodec()

    for event in (Holder(None), Floats(None), Holder([None, 1.5, "null"])):
        assert codec.decoder(type(event))(codec.encode(event)) == event


def test_a_lone_surrogate_is_refused():
    with pytest.raises(EventEncodingError, match="surrogate"):
        JSONEventCodec().encode(Holder("\ud800"))


def test_nesting_beyond_reason_is_refused():
    nested: Any = None
    for _ in range(100_000):
        nested = [nested]

    with pytest.raises(EventEncodingError, match="nested"):
        JSONEventCodec().encode(Holder(nested))


@pytest.mark.parametrize("value", [object(), lambda: None, 1j])
def test_what_has_no_json_form_is_refused(value):
    with pytest.raises(EventEncodingError, match="Holder"):
        JSONEventCodec().encode(Holder(value))


def evolve(state, event):
    return event


async def decode(event_class, data, content_type="application/json", stored_as=None):
    """Load an aggregate whose one event has this payload."""
    store, id = MemoryEventStore(), TypeID.new("thing")
    name = stored_as or event_class.__name__
    await store.append_stream(id, [NewEvent(name, data, content_type)])
    classes = [event_class]
    things = EventSourcedStore(store, "thing", lambda: Holder(None), events=classes, evolve=evolve)
    return id, things


@pytest.mark.parametrize(
    ("event_class", "data", "fault"),
    [
        (Line, b'{"sku":1,"price":"1"}', r"\$.sku"),
        (Line, b'{"price":"1"}', "sku"),
        (Line, b"not json", "malformed|JSON"),
        (Line, b"", "truncated"),
        (Line, b'{"sku":"\xff","price":"1"}', "utf|JSON|invalid"),
        (Line, b'{"sku":"a","price":"x"}', r"\$.price"),
        (AsModel, b'{"id":"x"}', "at: "),
        (Line, b"[" * 100_000, "nested|Expected"),
    ],
    ids=range(8),
)
async def test_a_payload_that_doesn_t_fit_says_which_field(event_class, data, fault):
    id, things = await decode(event_class, data)

    with pytest.raises(EventDecodingError, match=fault) as caught:
        await things.load(id)

    assert caught.value.stream_id == id
    assert (caught.value.version, caught.value.event_type) == (1, event_class.__name__)


async def test_errors_don_t_show_the_payload():
    secret = b'{"colour":"SECRET","id":"SECRET","at":"SECRET"}'
    for event_class in (AsModel, Coloured):
        id, things = await decode(event_class, secret)
        with pytest.raises(EventDecodingError) as caught:
            await things.load(id)
        assert "SECRET" not in str(caught.value)


@dataclass
class Coloured:
    colour: Colour


async def test_another_content_type_is_refused():
    id, things = await decode(Holder, b'{"value":1}', "application/msgpack")

    with pytest.raises(EventDecodingError, match="application/msgpack"):
        await things.load(id)


async def test_no_content_type_is_taken_for_the_codec_s():
    id, things = await decode(Holder, b'{"value":1}', "")

    assert (await things.load(id)).state == Holder(1)


async def test_an_unregistered_type_is_refused():
    id, things = await decode(Holder, b"{}", stored_as="Unheard")

    with pytest.raises(EventDecodingError, match="Unheard"):
        await things.load(id)


class StateV1(msgspec.Struct):
    amount: int


class StateV2(msgspec.Struct):
    amount: str


def test_the_content_type_of_states_names_their_schema():
    v1, v2 = JSONStateCodec(StateV1), JSONStateCodec(StateV2)

    assert v1.content_type.startswith("application/json; schema=")
    assert v1.content_type != v2.content_type
    assert v1.content_type == JSONStateCodec(StateV1).content_type
    assert JSONStateCodec(StateV1, schema="v7").content_type == "application/json; schema=v7"
    assert v1.decode(v1.encode(StateV1(5))) == StateV1(5)


def test_prose_doesn_t_change_a_schema():
    plain = msgspec.defstruct("State", [("description", str), ("title", int)])
    told = msgspec.defstruct(
        "State", [("description", str), ("title", int)], namespace={"__doc__": "Other words."}
    )

    assert JSONStateCodec(plain).content_type == JSONStateCodec(told).content_type


def test_a_model_can_be_a_state():
    codec = JSONStateCodec(AsModel)

    assert codec.decode(codec.encode(AsModel(**FIELDS))) == AsModel(**FIELDS)
    assert codec.content_type != JSONStateCodec(FloatModel).content_type


def test_a_class_that_can_t_be_decoded_is_refused_at_once():
    with pytest.raises(TypeError):
        JSONEventCodec().decoder(msgspec.defstruct("Odd", [("x", "int | AsStructFloat | StateV1")]))


def test_timestamps_in_payloads_keep_their_zone():
    codec = JSONEventCodec()
    moment = datetime(2024, 1, 1, tzinfo=UTC)

    assert codec.decoder(At)(codec.encode(At(moment))) == At(moment)


@dataclass
class At:
    moment: datetime
