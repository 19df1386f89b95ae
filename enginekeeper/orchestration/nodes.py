"""What this node is to an engine: its GPUs under their driver, or its CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from enginekeeper.compatibility.deployment import refusal_on
from enginekeeper.errors import UnavailableError
from enginekeeper.fleet.environments import GpuKind, kinds_of, meant_for, runtime_of
from enginekeeper.fleet.interface import DriverState, Nvml, Scan
from enginekeeper.fleet.nodes import split_unknown
from enginekeeper.fleet.nvml import open_nvml
from enginekeeper.orchestration.bench import Bench
from enginekeeper.orchestration.environments import environment_of
from registry.environments import Environment
from registry.gate import Compatibility, GateDecision
from registry.keys import EngineKey
from registry.resolution import Resolution
from registry.service import Registry
from registry.types import Engine


@dataclass(frozen=True)
class ThisNode:
    """This machine; NVML is asked once, and only if an engine for a GPU is asked about."""

    bench: Bench

    @cached_property
    def nvml(self) -> Nvml:
        """NVML, or the null one; raises UnavailableError when it is there and does not start."""
        return open_nvml()

    @cached_property
    def driver(self) -> DriverState | None:
        """The driver, or None where there is no GPU."""
        return self.nvml.driver()

    @cached_property
    def scan(self) -> Scan:
        """Every GPU here, as NVML shows it now."""
        return self.nvml.scan()

    @cached_property
    def kinds(self) -> tuple[GpuKind, ...]:
        """The kinds of GPU that answer; raises UnavailableError where none of them does."""
        scan = self.scan
        found = kinds_of(scan.devices)
        if not found:
            lost = "; ".join(f"GPU {one.index}: {one.reason}" for one in scan.lost)
            raise UnavailableError(
                "there is a driver and no GPU that engines can run on",
                actual=lost or f"{len(scan.devices)} GPUs, split into no slices",
                remedy="check `dmesg` for an Xid, drain the node; or make MIG devices",
            )
        return found

    def meets(self, key: EngineKey) -> Environment:
        """Returns the environment that an engine of a key meets here.

        One for a GPU meets the GPU, if there is one; every other meets the CPU, or the simulated
        GPU that it was built for. Raises UnavailableError where nobody can tell how a GPU that it
        could run on is split: in a slice it may never have been judged.
        """
        if "gpu_product" not in key.hard or self.driver is None:
            return environment_of(self.bench, key)
        kind = meant_for(key, self.kinds)[0]
        for device in self.scan.devices:
            if device.product == kind.product and (said := split_unknown(device)) is not None:
                raise UnavailableError(
                    "nobody can tell whether a GPU is split", where=f"GPU {device.index}",
                    actual=said, expected="MIG on, off, or not supported",
                    remedy="let this process read NVML's MIG mode; `nvidia-smi -q -d MIG` shows it",
                )  # fmt: skip
        return kind.under(self.driver, runtime_of(key, self.driver))

    @cached_property
    def is_simulated(self) -> bool:
        """Whether simulated engines may run here: enrolled as simulated, and no real GPU answers.

        Both: the name by which its enrolment is found is its own word. A node that is not
        enrolled as simulated asks no NVML for this.
        """
        with self.bench.registry.catalogue.read() as view:
            found = view.fleet.known_node(self.bench.node)
        if found is None or found.retired_at is not None or not found.simulated:
            return False
        return self.driver is None or self.nvml.simulated

    @cached_property
    def compatibility(self) -> Compatibility:
        """What cannot work here: by the environment, and on this operating system and CPU."""
        return refusal_on(self.bench.host.system, self.bench.host.architecture)

    @cached_property
    def registry(self) -> Registry:
        """The registry, whose gate is asked for this host."""
        return replace(self.bench.registry, compatibility=self.compatibility)

    def gate(self, engine: Engine) -> GateDecision:
        """Returns what the gate says of a recorded engine on this node."""
        return self.registry.gate(
            engine.digest,
            self.meets(engine.key),
            simulated_node=engine.simulated and self.is_simulated,
        )

    def resolve(self, model: str, channel: str) -> Resolution:
        """Returns what a channel means for a model on this node, and what the gate says of it."""
        return self.registry.resolve(channel, model, self.meets, simulated_node=self.is_simulated)

    def described(self) -> tuple[str, ...]:
        """Returns a line for each thing an engine can meet here; says what cannot be read."""
        lines = [str(self.bench.environment)]
        try:
            if self.driver is not None:
                mark = " SIMULATED, not a real GPU" if self.nvml.simulated else ""
                lines += [
                    f"{kind.under(self.driver, self.driver.cuda)}{mark}" for kind in self.kinds
                ]
        except UnavailableError as error:
            lines.append(f"{error.what} ({error.actual})" if error.actual else error.what)
        return tuple(lines)
