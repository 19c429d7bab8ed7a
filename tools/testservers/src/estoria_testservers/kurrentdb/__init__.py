"""A test double that speaks KurrentDB's protocol, for machines where no KurrentDB can be had."""

from estoria_testservers.kurrentdb._control import CONTROL, Control
from estoria_testservers.kurrentdb._faults import CallFault, Faults
from estoria_testservers.kurrentdb._log import Log, Proposal, Record
from estoria_testservers.kurrentdb._server import ProtocolServer

__all__ = [
    "CONTROL",
    "CallFault",
    "Control",
    "Faults",
    "Log",
    "Proposal",
    "ProtocolServer",
    "Record",
]
