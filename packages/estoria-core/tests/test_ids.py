"""Identifiers."""

import multiprocessing
import pickle
import random
from datetime import UTC, datetime
from uuid import UUID

import pytest

from estoria.core import ProjectionID, TypeID, uuid7

U = UUID("9791012c-cd5b-4795-9c54-6085975d599b")


def test_a_type_id_prints_as_type_and_uuid():
    assert str(TypeID("user", U)) == "user_9791012c-cd5b-4795-9c54-6085975d599b"


@pytest.mark.parametrize("name", ["user", "a_b", "a__b", "x" * 255, "é🧾", "a.b-c d", "0"])
def test_parse_is_the_inverse_of_str(name):
    type_id = TypeID(name, U)

    assert TypeID.parse(str(type_id)) == type_id


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "no underscore"),
        ("user", "no underscore"),
        (f"user{U}", "no underscore"),
        (f"_{U}", "empty"),
        (f"user__{U}", "underscore"),
        (f"_user_{U}", "underscore"),
        (f"$user_{U}", "dollar"),
        (f"user_{str(U).upper()}", "canonical"),
        (f"user_{U.hex}", "canonical"),
        (f"user_{{{U}}}", "canonical"),
        (f"user_{U} ", "canonical"),
        (f"user_{U}\n", "canonical"),
        (f"user_{str(U)[:-1]}", "canonical"),
        (f"us\0er_{U}", "NUL"),
        (f"\ud800x_{U}", "surrogate"),
        (f"{'x' * 256}_{U}", "255"),
    ],
)
def test_parse_names_the_fault(text, fault):
    with pytest.raises(ValueError, match=fault):
        TypeID.parse(text)


@pytest.mark.parametrize("name", ["", "_", "_a", "a_", "$a", "a\0", "\udfff", "x" * 256, None, 7])
def test_a_type_id_can_t_be_made_of_a_bad_name(name):
    with pytest.raises(ValueError, match="type"):
        TypeID(name, U)


def test_a_type_id_can_t_be_made_without_a_uuid():
    with pytest.raises(ValueError, match="UUID"):
        TypeID("user", str(U))


def test_type_ids_are_values():
    assert TypeID("a", U) == TypeID("a", UUID(str(U)))
    assert len({TypeID("a", U), TypeID("a", U), TypeID("b", U)}) == 2
    assert TypeID("a", U) < TypeID("a_b", U) < TypeID("b", UUID(int=0))
    assert pickle.loads(pickle.dumps(TypeID("a", U))) == TypeID("a", U)
    with pytest.raises(AttributeError):
        TypeID("a", U).type = "b"


def test_uuid7_is_a_version_7_uuid_of_this_moment():
    before = datetime.now(UTC).timestamp()
    made = uuid7()
    after = datetime.now(UTC).timestamp()

    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert int(before * 1000) <= made.int >> 80 <= int(after * 1000)
    assert UUID(str(made)) == made
    assert hash(UUID(str(made))) == hash(made)


def test_uuid7s_sort_by_time_and_never_repeat():
    made = [uuid7() for _ in range(20_000)]

    assert len(set(made)) == len(made)
    assert [m.int >> 64 for m in made] == sorted(m.int >> 64 for m in made)


def test_uuid7_doesn_t_follow_anybody_s_seed():
    random.seed(1)
    first = uuid7().int & (2**62 - 1)
    random.seed(1)

    assert uuid7().int & (2**62 - 1) != first


def _draw(pipe):
    pipe.send([uuid7().int & (2**62 - 1) for _ in range(3)])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_draws_other_ids():
    context = multiprocessing.get_context("fork")
    draws = []
    for _ in range(2):
        mine, theirs = context.Pipe()
        child = context.Process(target=_draw, args=(theirs,))
        child.start()
        draws += mine.recv()
        child.join()
        mine.close()
        theirs.close()

    assert len(set(draws)) == 6


def test_a_projection_id_prints_with_its_version():
    assert str(ProjectionID("orders", 7)) == "orders_v7"
    assert ProjectionID.parse("orders_v7") == ProjectionID("orders", 7)
    assert ProjectionID.parse("a_v1_v12") == ProjectionID("a_v1", 12)


@pytest.mark.parametrize("text", ["orders", "orders_v", "orders_v0", "orders_v07", "_v1", "a_v-1"])
def test_what_is_no_projection_id_is_refused(text):
    with pytest.raises(ValueError, match="name"):
        ProjectionID.parse(text)


@pytest.mark.parametrize(("name", "version"), [("", 1), ("a", 0), ("a", True), ("a\0", 1)])
def test_a_projection_id_can_t_be_made_of_nonsense(name, version):
    with pytest.raises(ValueError, match="name|version"):
        ProjectionID(name, version)
