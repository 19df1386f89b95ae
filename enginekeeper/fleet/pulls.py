"""A directory into which engines are pulled: which one is current, and which was before.

    INTO/current -> engines/ID       a link that is switched in one step
        /engines/ID/engine/…         the files of an engine, and
        /engines/ID/evidence.json    all that is signed about it
        /snapshot.dsse.json          the registry's snapshot, where it has one
        /pull.json                   model, channel, and which engine was current before
        /pull.next.json              the same of a switch that is under way

The link is the truth: whoever is killed between two steps leaves the old one or the new one, with
the way back of that one: what `pull.next.json` says counts once the link is where it says. A
directory is of one model: whoever starts an engine from it must get the one that was asked for.
"""

from __future__ import annotations

import json
import logging
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError, MissingError, UnavailableError
from enginekeeper.fleet.node_files import write_whole

SNAPSHOT = "snapshot.dsse.json"
_CURRENT, _ENGINES = "current", "engines"
_STATE, _NEXT = "pull.json", "pull.next.json"
_NAME = re.compile(r"[0-9a-f]{12}")
"""What an engine is called below `engines`: nothing that leads elsewhere."""
_progress = logging.getLogger("enginekeeper.progress")


@dataclass(frozen=True)
class PullState:
    """What the last switch was."""

    model: str
    channel: str | None
    """None where an engine was named itself."""
    current: str
    previous: str | None
    """Names below `engines`; None where there was none before."""
    previous_channel: str | None = None
    """The channel that it was pulled from."""

    def channel_of(self, name: str | None) -> str | None:
        """Returns the channel that an engine was pulled from, None for none and for no such one."""
        channels = {self.previous: self.previous_channel, self.current: self.channel}
        return channels.get(name)


@dataclass(frozen=True)
class PullDirectory:
    """One such directory; nothing of it needs a registry."""

    root: Path

    @property
    def engines(self) -> Path:
        """Where the engines are."""
        return self.root / _ENGINES

    @property
    def current(self) -> Path:
        """The link to the current one."""
        return self.root / _CURRENT

    def current_name(self) -> str | None:
        """Returns the name of the current engine, None before the first pull.

        Raises InputError where something else than our link is there.
        """
        try:
            target = self.current.readlink()
        except FileNotFoundError:
            return None
        except OSError:  # a directory, or a file
            target = Path()
        if target.parent != Path(_ENGINES) or not _NAME.fullmatch(target.name):
            raise InputError(
                "something else is there than the link to the current engine",
                where=str(self.current), actual=str(target), expected=f"{_ENGINES}/ID",
                remedy="name another directory, or move it away",
            )  # fmt: skip
        return target.name

    def state(self) -> PullState | None:
        """Returns what the last switch was, None before the first; raises InputError."""
        return self._read(_NEXT if self._has_switched() else _STATE)

    def _has_switched(self) -> bool:
        """Says whether a switch that was interrupted had come as far as the link."""
        try:
            following = self._read(_NEXT)
            return following is not None and following.current == self.current_name()
        except InputError:  # what was cut off is none; whoever switches says what the link is
            return False

    def _read(self, name: str) -> PullState | None:
        file = self.root / name
        if not file.is_file():
            return None
        document = read_json_object(file)
        document.setdefault("previous_channel", document.get("channel"))  # by an older version
        values = [document.get(name) for name in PullState.__dataclass_fields__]
        optional = (str, type(None))
        kinds: tuple[type | tuple[type, ...], ...] = (str, optional, str, optional, optional)
        told = all(isinstance(one, kind) for one, kind in zip(values, kinds, strict=True))
        names = [one for one in values[2:4] if one is not None] if told else [""]
        if not all(_NAME.fullmatch(one) for one in names):
            raise InputError(
                "what was pulled cannot be read", where=str(file), remedy="pull once more"
            )
        return PullState(*values)  # type: ignore[arg-type]  # just checked

    def state_if_readable(self) -> PullState | None:
        """Returns what the last switch was, None where that cannot be read, which is said."""
        try:
            return self.state()
        except InputError as error:
            _progress.warning("%s: %s; it is written anew", error.where, error.what)
            return None

    def require_model(self, model: str) -> None:
        """Raises InputError where engines of another model are pulled to."""
        state = self.state_if_readable()
        if state is not None and state.model != model:
            raise InputError(
                "engines of another model are here", where=str(self.root),
                actual=state.model, expected=model,
                remedy="name a directory of its own for each model; nothing was pulled",
            )  # fmt: skip

    def require_pulled(self, model: str, channel: str) -> None:
        """Raises InputError where the current engine was pulled for another model or channel.

        One that was named by its id was put there by hand, and counts for the channel.
        """
        state, name = self.state(), self.current_name()
        if state is None or name is None:
            raise MissingError(
                "nothing says what the current engine was pulled for", where=str(self.root),
                remedy=f"enginekeeper pull {model} --channel {channel} --into {self.root}",
            )  # fmt: skip
        found = state.channel_of(name)
        if state.model != model or found not in (channel, None):
            raise InputError(
                "the current engine was pulled for something else", where=str(self.root),
                actual=f"{state.model}: {found}", expected=f"{model}: {channel}",
                remedy="pull it to a directory of its own: "
                f"enginekeeper pull {model} --channel {channel} --into DIRECTORY",
            )  # fmt: skip

    def switch(self, name: str, *, model: str, channel: str | None) -> PullState:
        """Makes an engine the current one; the one before is kept for the way back.

        The same again changes nothing. Raises UnavailableError where the disk does not let it.
        """
        before, state = self.current_name(), self.state_if_readable()
        if before == name and state is not None and state.current == name:
            previous, channel_before = state.previous, state.previous_channel
        else:
            previous = before if before != name else None
            channel_before = None if state is None else state.channel_of(previous)
        made = PullState(model, channel, name, previous, channel_before)
        draft = self.root / f".{_CURRENT}.new"
        try:
            if self._has_switched():
                self._end_switch()
            write_whole(self.root / _NEXT, json.dumps(asdict(made), indent=2))
            draft.unlink(missing_ok=True)
            draft.symlink_to(Path(_ENGINES, name))
            os.replace(draft, self.current)  # noqa: PTH105 - rename(2) on the link, not on its target
            self._end_switch()
        except OSError as error:
            raise UnavailableError(
                f"the current engine cannot be switched: {error.strerror}", where=str(self.current)
            ) from error
        return made

    def _end_switch(self) -> None:
        os.replace(self.root / _NEXT, self.root / _STATE)  # noqa: PTH105 - as the link

    def way_back(self) -> PullState:
        """Returns the last switch; raises MissingError where there is nothing to go back to."""
        state = self.state()
        if state is None or state.previous is None:
            raise MissingError(
                "there is no engine to go back to", where=str(self.root),
                remedy="pull the one that you want by its id: enginekeeper pull ENGINE --into DIR",
            )  # fmt: skip
        return state


def remember_pull(home: Path, model: str, channel: str, root: Path) -> None:
    """Notes on the node where the engine of a channel is pulled to."""
    document = json.dumps({"into": str(root.resolve())}, indent=2)
    write_whole(home / "pulls" / f"{model}@{channel}.json", document)


def pulled_to(home: Path, model: str, channel: str) -> PullDirectory:
    """Returns where the engine of a channel is on this node; raises MissingError, InputError."""
    file = home / "pulls" / f"{model}@{channel}.json"
    if not file.is_file():
        raise MissingError(
            "nothing of this channel was pulled to this node", where=f"{model}: {channel}",
            remedy=f"enginekeeper pull {model} --channel {channel} --into DIRECTORY",
        )  # fmt: skip
    into = read_json_object(file).get("into")
    if not isinstance(into, str):
        raise InputError("does not say where", where=str(file), remedy="pull once more")
    return PullDirectory(Path(into))
