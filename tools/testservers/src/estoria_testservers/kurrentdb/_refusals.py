"""Errors that carry a message of their own beside the status."""

from typing import NoReturn

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import status_pb2  # type: ignore[import-untyped]  # it ships no types
from kurrentdbclient.protos.v1 import status_pb2 as answered_pb2

from estoria_testservers.kurrentdb._faults import Context

Trailer = tuple[tuple[str, str | bytes], ...]


def answered_status(code: int, message: str, details: Message) -> answered_pb2.Status:
    """An error that is told in an answer."""
    packed = any_pb2.Any()
    packed.Pack(details)
    return answered_pb2.Status(code=code, message=message, details=packed)  # type: ignore[arg-type]  # the stub asks for the enum's own type, which at run time is int


def trailer(code: grpc.StatusCode, text: str, details: Message) -> Trailer:
    """The trailing metadata that say more about a status."""
    packed = any_pb2.Any()
    packed.Pack(details)
    number: int = code.value[0]
    status = status_pb2.Status(code=number, message=text, details=[packed])
    return (("grpc-status-details-bin", status.SerializeToString()),)


async def refuse(context: Context, code: grpc.StatusCode, text: str, details: Message) -> NoReturn:
    """End the call with a status and its details."""
    await context.abort(code, text, trailer(code, text, details))
    raise AssertionError  # abort has raised
