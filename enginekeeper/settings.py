"""Where Enginekeeper keeps things, and what of the environment it listens to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from enginekeeper.errors import InputError

_SIGNER = "ENGINEKEEPER_SIGNER_"


@dataclass(frozen=True)
class Settings:
    """Every setting that comes from the environment, read once and passed on."""

    home: Path
    """What must not be lost: catalogue, artifact store, keys. ENGINEKEEPER_HOME."""

    cache: Path
    """What can be made again: toolchains, source models, stage products. ENGINEKEEPER_CACHE."""

    catalogue_url: str
    """SQLAlchemy URL of the catalogue. ENGINEKEEPER_CATALOGUE."""

    store_url: str
    """URL of the artifact store, `file:///…` or `s3://…`. ENGINEKEEPER_STORE."""

    find_links: tuple[str, ...] = ()
    """Folders or pages with wheels, as pip and uv know them. UV_FIND_LINKS, PIP_FIND_LINKS."""

    torch_index: str = "https://download.pytorch.org/whl/cpu"
    """Index with the CPU builds of torch, if no local wheel fits. ENGINEKEEPER_TORCH_INDEX."""

    compiler: str = "g++"
    """The C++ compiler of the embedded builder. CXX."""

    signers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Addresses of the keys that sign for a role, if not the home's own file: `builder` and the
    like. Several sign together. ENGINEKEEPER_SIGNER_BUILDER and so on, separated by spaces."""

    pin_file: Path | None = None
    """File with the PIN of a PKCS #11 token. ENGINEKEEPER_PIN_FILE."""

    node: str | None = None
    """What this node is called in the fleet, if not by its host's name. ENGINEKEEPER_NODE."""

    container_image: str | None = None
    """The image of the container this process is in. ENGINEKEEPER_CONTAINER_IMAGE."""

    webhook_secret_file: Path | None = None
    """File with the secret that signs what webhooks are sent. ENGINEKEEPER_WEBHOOK_SECRET_FILE."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Reads the settings; what is unset or empty gets its default."""
        env = os.environ if environ is None else environ
        home = _directory(env, "ENGINEKEEPER_HOME", ("XDG_DATA_HOME", ".local/share"))
        cache = _directory(env, "ENGINEKEEPER_CACHE", ("XDG_CACHE_HOME", ".cache"))
        return cls(
            home=home,
            cache=cache,
            catalogue_url=env.get("ENGINEKEEPER_CATALOGUE")
            or f"sqlite:///{home / 'catalogue.sqlite'}",
            store_url=env.get("ENGINEKEEPER_STORE") or (home / "store").as_uri(),
            find_links=_find_links(env),
            compiler=env.get("CXX") or cls.compiler,
            torch_index=env.get("ENGINEKEEPER_TORCH_INDEX") or cls.torch_index,
            signers={
                name.removeprefix(_SIGNER).lower(): tuple(value.split())
                for name, value in env.items()
                if name.startswith(_SIGNER) and value.strip()
            },
            pin_file=_file(env, "ENGINEKEEPER_PIN_FILE"),
            container_image=env.get("ENGINEKEEPER_CONTAINER_IMAGE") or None,
            node=env.get("ENGINEKEEPER_NODE") or None,
            webhook_secret_file=_file(env, "ENGINEKEEPER_WEBHOOK_SECRET_FILE"),
        )


def _file(env: Mapping[str, str], name: str) -> Path | None:
    return Path(value) if (value := env.get(name)) else None


def _directory(env: Mapping[str, str], name: str, default: tuple[str, str]) -> Path:
    if chosen := env.get(name):
        try:
            return Path(chosen).expanduser().absolute()
        except RuntimeError as error:  # what Python says of a home that nobody has
            raise InputError(
                "begins with the home of a user who does not exist", where=name, actual=chosen[:200]
            ) from error
    variable, fallback = default
    base = env.get(variable, "")
    # The XDG specification says that a relative path is invalid and to be ignored.
    root = Path(base) if base.startswith("/") else Path(env.get("HOME") or Path.home()) / fallback
    return root / "enginekeeper"


def _find_links(env: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the places in order, once each; uv separates them by commas, pip by spaces."""
    places = env.get("UV_FIND_LINKS", "").replace(",", " ").split()
    places += env.get("PIP_FIND_LINKS", "").split()
    return tuple(dict.fromkeys(places))
