"""The bench: every real object that flows and commands work with, made from the settings."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from securesystemslib.signer import Signer

from enginekeeper.compatibility.deployment import refusal
from enginekeeper.errors import InputError, UnavailableError
from enginekeeper.fleet.cpu import host, instruction_set
from enginekeeper.fleet.environments import GpuKind, kinds_of
from enginekeeper.fleet.identity import actor, node_name
from enginekeeper.fleet.interface import DriverState
from enginekeeper.orchestration.keys import Host, local_environment
from enginekeeper.orchestration.tools import Tools, locked_torch, read_tools, reference_toolchain
from enginekeeper.orchestration.transfers import TransferLog
from enginekeeper.orchestration.validator import validator_digest
from enginekeeper.orchestration.workshop import Workshop
from enginekeeper.settings import Settings
from enginekeeper.toolchains.catalogue import contained_lock, lock_digest
from enginekeeper.toolchains.runner import Launcher
from enginekeeper.toolchains.sync import ensure
from enginekeeper.validation.suite_store import SuiteStore
from enginekeeper.work import WorkStore
from registry.blobs.select import open_store
from registry.catalogue import Catalogue, open_catalogue
from registry.digests import Digest
from registry.disks import full_disk_said
from registry.environments import CpuEnvironment
from registry.errors import CatalogueOutdatedError
from registry.freshness import SnapshotReader
from registry.seen import Memory
from registry.service import Registry
from registry.signers import pin_in, signer_at
from registry.signing import ROLES, TRUST_FILE, open_signer, role_of
from registry.trust import Purpose, Trust
from registry.trust_file import read_trust


@dataclass(frozen=True)
class Bench:
    """The settings, and what is opened from them when it is first needed."""

    settings: Settings

    @property
    def keys(self) -> Path:
        """Directory of the private keys and the trust file."""
        return self.settings.home / "keys"

    @property
    def node(self) -> str:
        """What this node is called in the fleet."""
        return self.settings.node or node_name()

    @cached_property
    def shop(self) -> Workshop:
        """Where stages run; the logs of one run share a directory."""
        started = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        return Workshop(
            work=WorkStore(self.settings.cache / "work"),
            logs=self.settings.home / "runs" / f"{started}-{os.getpid()}",
            python_of=lambda name: ensure(name, self.settings),
            lock_of=lambda name: lock_digest(name, self.settings),
            launcher_of=self._launcher_of,
            reference_toolchain=lambda: reference_toolchain(self.settings),
        )

    @property
    def suites(self) -> SuiteStore:
        """The probe suites: those that ship with Enginekeeper, and this home's own."""
        return SuiteStore.of(self.settings.home)

    @property
    def registry(self) -> Registry:
        """The registry, trusting what the trust file says now; without one it trusts nobody."""
        return replace(self._registry, trust=self.trust)

    @property
    def trust(self) -> Trust:
        """Whom this home trusts."""
        path = self.keys / TRUST_FILE
        return read_trust(path) if path.exists() else Trust()

    def signers(self, purpose: Purpose, *, simulated: bool = False) -> tuple[Signer, ...]:
        """Returns who signs for a purpose: the home's own key, or those that the settings name.

        Raises IntegrityError for a key that is not trusted here.
        """
        role = role_of(purpose)
        if unknown := sorted(self.settings.signers.keys() - ROLES.keys()):
            raise InputError(
                f"nobody signs as {', '.join(unknown)}",
                where=", ".join(f"ENGINEKEEPER_SIGNER_{name.upper()}" for name in unknown),
                expected=f"one of {', '.join(ROLES)}",
            )
        if role not in self.settings.signers:
            return (open_signer(self.keys, purpose, simulated=simulated),)
        pin = self.settings.pin_file
        secrets = None if pin is None else pin_in(pin)
        return tuple(
            signer_at(address, self.trust, purpose, simulated=simulated, secrets=secrets)
            for address in self.settings.signers[role]
        )

    @property
    def snapshots(self) -> SnapshotReader:
        """Reads the registry's snapshot, and remembers in this home what it has seen."""
        return SnapshotReader(Memory(self.settings.home / "seen" / "snapshots.json"))

    @cached_property
    def _registry(self) -> Registry:
        """The registry without trust; the embedded catalogue is created on first use."""
        self._make_home()
        return Registry(
            catalogue=self._catalogue(),
            store=open_store(self.settings.store_url, progress=TransferLog()),
            trust=Trust(),
            compatibility=refusal,
            actor=actor(),
            snapshots=self.snapshots,
        )

    def _launcher_of(self, toolchain: str) -> Launcher | None:
        if contained_lock(toolchain, self.settings) is None:
            return None
        # NVML, which chooses the GPU, is not for those who run no container
        from enginekeeper.orchestration.launching import launcher_of  # noqa: PLC0415

        return launcher_of(toolchain, self.settings)

    def _make_home(self) -> None:
        try:
            with full_disk_said():
                self.settings.home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UnavailableError(
                f"the home directory cannot be used: {error.strerror}",
                where=str(self.settings.home),
                remedy="set ENGINEKEEPER_HOME to a directory you may write to",
            ) from error

    def _catalogue(self) -> Catalogue:
        url = self.settings.catalogue_url
        try:
            return open_catalogue(url)
        except CatalogueOutdatedError:
            # A shared database is migrated by `enginekeeper db upgrade`, never by the way.
            if not url.startswith("sqlite:"):
                raise
        from registry.migrate import upgrade  # noqa: PLC0415 - Alembic takes half a second

        upgrade(url)
        return open_catalogue(url)

    @cached_property
    def host(self) -> Host:
        """This machine, as far as it binds an engine."""
        return Host(*host(), instruction_set())

    @cached_property
    def tools(self) -> Tools:
        """What makes engines here."""
        return read_tools(self.shop, self.settings)

    @cached_property
    def validator(self) -> Digest:
        """Names what judges engines here."""
        return validator_digest(self.shop)

    @cached_property
    def gpus(self) -> tuple[GpuKind, ...]:
        """The kinds of GPU of this host; none where a stand-in answers in NVML's place.

        One of which nobody can tell how it is split is none, nor is another of its product: which
        of them an engine runs on is not known, and no verdict could say where it was.
        Raises UnavailableError when there is a driver that does not answer.
        """
        from enginekeeper.fleet.nodes import split_unknown  # noqa: PLC0415 - as below
        from enginekeeper.fleet.nvml import open_nvml  # noqa: PLC0415 - most commands ask no GPU

        nvml = open_nvml()
        if nvml.simulated or nvml.driver() is None:
            return ()
        devices = nvml.scan().devices
        untold = {one.product for one in devices if split_unknown(one) is not None}
        return kinds_of(one for one in devices if one.product not in untold)

    def driver(self) -> DriverState:
        """Returns the driver of this host's GPUs; raises UnavailableError where there is none."""
        from enginekeeper.fleet.nvml import open_nvml  # noqa: PLC0415

        found = open_nvml().driver()
        if found is None:
            raise UnavailableError(
                "there is no NVIDIA driver here", remedy="run it on a host with an NVIDIA GPU"
            )
        return found

    @cached_property
    def environment(self) -> CpuEnvironment:
        """The environment that engines of the embedded builder meet here."""
        return local_environment(self.host, locked_torch(self.settings))


def open_bench() -> Bench:
    """Returns a bench from the environment's settings; opens nothing yet."""
    return Bench(Settings.from_environment())
