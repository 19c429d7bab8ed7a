"""The switch that makes calls fail, wait or lose their answers."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

Context = grpc.aio.ServicerContext[Any, Any]

METHODS = (
    "Append",
    "AppendRecords",
    "AppendSession",
    "BatchAppend",
    "Delete",
    "Gossip",
    "Persistent.Create",
    "Persistent.Delete",
    "Persistent.GetInfo",
    "Persistent.List",
    "Persistent.Read",
    "Persistent.ReplayParked",
    "Persistent.Update",
    "Read",
    "Tombstone",
)
"""What calls are named by, in faults and in counts."""


@dataclass
class CallFault:
    """What happens to a call of `method`: at the `nth` from now on, and `times` times.

    `delay` seconds pass first. Then the call fails with `status` and `details`, unless
    `performed` says that it is carried out first: then it is its answer that is lost. A read
    gives so many `messages` before it fails. Without a status nothing but the delay happens.

    The answer of a call that is `performed` is dropped altogether, so that the client waits for
    it, when the status is ``CANCELLED`` and there are no details.
    """

    method: str
    nth: int = 1
    times: int = 1
    delay: float = 0.0
    status: str = ""
    details: str = ""
    performed: bool = False
    messages: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            msg = f"no such method: {self.method}"
            raise ValueError(msg)
        if self.status and self.status not in grpc.StatusCode.__members__:
            msg = f"no such status: {self.status}"
            raise ValueError(msg)


@dataclass
class Faults:
    """The faults that wait for their calls, and how many calls and messages there were."""

    pending: list[CallFault] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    messages: dict[str, int] = field(default_factory=dict)

    def inject(self, fault: CallFault) -> None:
        """Arm a fault."""
        self.pending.append(fault)

    def clear(self) -> None:
        """Disarm all, and count from 0."""
        self.pending.clear()
        self.calls.clear()
        self.messages.clear()

    async def before(self, method: str, context: Context) -> CallFault | None:
        """Count a call; wait or fail as asked. What is returned concerns its answer."""
        self.calls[method] = self.calls.get(method, 0) + 1
        fault = self._due(method)
        if fault is None:
            return None
        if fault.delay:
            await asyncio.sleep(fault.delay)
        if fault.status and not fault.performed and not fault.messages:
            await fail(context, fault)
        return fault if fault.status else None

    def _due(self, method: str) -> CallFault | None:
        found = None
        for fault in [each for each in self.pending if each.method == method]:
            fault.nth -= 1
            if fault.nth > 0 or found is not None:
                continue
            found = fault
            fault.times -= 1
            fault.nth = 1
            if fault.times <= 0:
                self.pending.remove(fault)
        return found


async def fail(context: Context, fault: CallFault) -> None:
    """End the call as the fault says."""
    await context.abort(grpc.StatusCode[fault.status], fault.details)


async def lose(context: Context, fault: CallFault | None) -> None:
    """End a call that was carried out as its fault says; without one, do nothing."""
    if fault is not None:
        if fault.status == "CANCELLED" and not fault.details:
            await asyncio.Event().wait()
        await fail(context, fault)
