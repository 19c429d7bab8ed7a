"""Which persistent subscriptions there are: kept in the log, where KurrentDB keeps them too."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from kurrentdbclient.protos.v1 import persistent_pb2

from estoria_testservers.kurrentdb._filter import Filter, filter_by
from estoria_testservers.kurrentdb._groups import Group, Settings
from estoria_testservers.kurrentdb._log import ANY, Log, system_event
from estoria_testservers.kurrentdb._sources import AllSource, Source, StreamSource

_STREAM = "$persistentSubscriptionConfig"
_TYPE = "PersistentConfig1"
_FilterOptions = persistent_pb2.CreateReq.AllOptions.FilterOptions

Key = tuple[str, str]
"""A stream, or `$all`, and the name of a group."""


class Configuration:
    """The groups by their keys; one that is restarted finds them in its log."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._groups: dict[Key, Group] = {}
        self._filters: dict[Key, dict[str, Any] | None] = {}
        kept = log.newest(_STREAM)
        for entry in json.loads(kept.event.data)["entries"] if kept is not None else []:
            key = entry["stream"], entry["group"]
            self._add(key, Settings(**entry["settings"]), entry["filter"])

    def __contains__(self, key: object) -> bool:
        return key in self._groups

    def get(self, key: Key) -> Group | None:
        """The group, if it exists."""
        return self._groups.get(key)

    def values(self) -> Iterable[Group]:
        """All groups."""
        return self._groups.values()

    def create(self, key: Key, settings: Settings, expression: Message | None) -> None:
        """A new group, with a filter if it is one to all."""
        self._add(key, settings, None if expression is None else MessageToDict(expression))
        self._keep()

    def update(self, key: Key, settings: Settings) -> None:
        """Other settings for a group."""
        self._groups[key].update(settings)
        self._keep()

    def delete(self, key: Key) -> None:
        """No such group any more."""
        self._groups.pop(key).delete()
        del self._filters[key]
        self._keep()

    def _add(self, key: Key, settings: Settings, expression: dict[str, Any] | None) -> None:
        stream, name = key
        source: Source = StreamSource(self._log, stream)
        if stream == "$all":
            wanted = Filter()
            if expression is not None:
                wanted = filter_by(ParseDict(expression, _FilterOptions()))
            source = AllSource(self._log, wanted, f"$persistentsubscription-{stream}::{name}-")
        self._groups[key] = Group(self._log, source, name, settings)
        self._filters[key] = expression

    def _keep(self) -> None:
        entries = [
            {
                "stream": key[0],
                "group": key[1],
                "settings": asdict(group.settings),
                "filter": self._filters[key],
            }
            for key, group in self._groups.items()
        ]
        self._log.append(_STREAM, ANY, [system_event(_TYPE, {"version": "2", "entries": entries})])
