"""Installs a small toolchain with the real uv, from a folder of wheels made here, offline."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from enginekeeper.errors import UnavailableError
from enginekeeper.settings import Settings
from enginekeeper.toolchains import catalogue, doctor, sync
from enginekeeper.toolchains.catalogue import TORCH, Toolchain
from enginekeeper.toolchains.installation import RECORD, Installation, State, state_of
from enginekeeper.toolchains.locking import write_lock
from enginekeeper.toolchains.sync import ensure
from enginekeeper.toolchains.uv import Listener
from registry.errors import IntegrityError

Lines = list[str]
_TAG = "cp311-cp311-linux_x86_64"
_SMALL = Toolchain(name="small", purpose="a test", imports=("torch", "shell"), disk_bytes=1000)

pytestmark = pytest.mark.skipif(
    sys.version_info[:2] != catalogue.PYTHON,
    reason="the wheels made here are for the locks' Python",
)


def _wheel(folder: Path, name: str, version: str, source: str, tag: str = "py3-none-any") -> str:
    """Writes the smallest wheel there is; returns its SHA-256."""
    info = f"{name}-{version}.dist-info"
    pure = str(tag.startswith("py3")).lower()
    files = {
        f"{name}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: {pure}\nTag: {tag}\n",
    }
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        record = ""
        for member, text in files.items():
            archive.writestr(member, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())
            record += f"{member},sha256={digest.decode().rstrip('=')},{len(text)}\n"
        archive.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Site:
    """A host with a folder of wheels, an empty cache and no network."""

    settings: Settings
    wheels: Path

    def lock(self, *entries: str) -> None:
        path = self.settings.home / "locks" / "small.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([TORCH, *entries, ""]))

    def add(self, name: str, source: str = "") -> str:
        """Adds a wheel; returns its lock entry."""
        return f"{name}==1.0 \\\n    --hash=sha256:{_wheel(self.wheels, name, '1.0', source)}"

    @property
    def folder(self) -> Path:
        return next((self.settings.cache / "toolchains").glob("small-*/"))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    _wheel(wheels, "torch", "2.13.0+cpu", "__version__ = '2.13.0+cpu'", _TAG)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setitem(catalogue.TOOLCHAINS, "small", _SMALL)
    monkeypatch.setattr("enginekeeper.toolchains.prerequisites._SPARE_BYTES", 0)
    settings = Settings.from_environment({"HOME": str(tmp_path), "PIP_FIND_LINKS": str(wheels)})
    site = Site(settings, wheels)
    site.lock(site.add("shell", "colour = 'red'"))
    return site


def test_a_toolchain_is_installed_checked_and_recorded(site: Site) -> None:
    lines: Lines = []

    python = ensure("small", site.settings, progress=lines.append)

    seen = subprocess.run(
        [python, "-c", "import shell, torch; print(shell.colour, torch.__version__)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert seen.stdout.split() == ["red", "2.13.0+cpu"]
    assert state_of(_SMALL, site.settings) is State.READY
    assert lines[0].startswith("small: installing into")
    assert lines[-1].startswith("small: ready after")


def test_a_second_time_nothing_is_started(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    python = ensure("small", site.settings)
    monkeypatch.setattr(sync, "call_uv", lambda *_: pytest.fail("uv was started"))

    assert ensure("small", site.settings) == python


def test_another_lock_is_another_installation(site: Site) -> None:
    first = ensure("small", site.settings)
    site.lock(site.add("shell", "colour = 'blue'"))

    assert state_of(_SMALL, site.settings) is State.STALE
    assert ensure("small", site.settings) != first


def test_an_interrupted_installation_is_started_over(site: Site) -> None:
    ensure("small", site.settings)
    (site.folder / RECORD).unlink()
    (site.folder / "half").touch()

    assert state_of(_SMALL, site.settings) is State.UNFINISHED
    ensure("small", site.settings)

    assert not (site.folder / "half").exists()
    assert state_of(_SMALL, site.settings) is State.READY


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_synchronisation_leaves_nothing_that_counts(
    site: Site, number: signal.Signals
) -> None:
    site.lock(site.add("shell", "import time; open('pid', 'w').close(); time.sleep(60)"))
    program = (
        "from pathlib import Path; from enginekeeper.toolchains import catalogue, prerequisites\n"
        "from enginekeeper.settings import Settings\n"
        "from enginekeeper.toolchains.sync import ensure\n"
        "prerequisites._SPARE_BYTES = 0\n"
        "catalogue.TOOLCHAINS['small'] = catalogue.Toolchain(\n"
        "    name='small', purpose='', imports=('torch', 'shell'), disk_bytes=1000)\n"
        "ensure('small', Settings.from_environment())\n"
    )
    places = {"HOME": str(site.settings.home.parents[2]), "PIP_FIND_LINKS": str(site.wheels)}
    env = {**os.environ, **places, "XDG_CACHE_HOME": "", "XDG_DATA_HOME": ""}
    with subprocess.Popen([sys.executable, "-c", program], env=env, stderr=subprocess.PIPE) as run:
        _wait_for(lambda: list(site.settings.cache.glob("toolchains/logs/*/check/pid")))
        run.send_signal(number)
        run.communicate(timeout=30)

    assert state_of(_SMALL, site.settings) is State.UNFINISHED


def _wait_for(seen: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_at_a_time_install_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    installs: Lines = []
    install = sync._install

    def count(installation: Installation, settings: Settings, tell: Listener) -> None:
        installs.append(installation.toolchain.name)
        install(installation, settings, tell)

    monkeypatch.setattr(sync, "_install", count)
    lines: Lines = []
    threads = [
        threading.Thread(target=ensure, args=("small", site.settings), kwargs={
            "progress": lines.append
        })
        for _ in range(2)
    ]  # fmt: skip

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert installs == ["small"]
    assert any("another process is installing it" in line for line in lines)


def test_a_wheel_that_is_not_the_locked_one_is_an_integrity_error(site: Site) -> None:
    entry = site.add("shell", "colour = 'red'")
    site.add("shell", "import os  # changed on the way")
    site.lock(entry)

    with pytest.raises(IntegrityError, match="not the file that the lock names"):
        ensure("small", site.settings)

    assert state_of(_SMALL, site.settings) is State.UNFINISHED


def test_an_entry_without_a_hash_is_not_installed(site: Site) -> None:
    site.lock("shell==1.0")

    with pytest.raises(UnavailableError, match="installing small"):
        ensure("small", site.settings)


def test_without_torch_it_stops_before_anything_is_installed(site: Site) -> None:
    bare = dataclasses.replace(
        site.settings, find_links=("/no/such/folder",), torch_index="file:///no/such/index"
    )

    with pytest.raises(UnavailableError, match="PyPI has no CPU build") as caught:
        ensure("small", bare)

    assert "PIP_FIND_LINKS" in str(caught.value.remedy)
    assert not list((site.settings.cache / "toolchains").glob("small-*/"))


def test_torch_comes_from_the_index_when_no_local_wheel_fits(site: Site) -> None:
    index = site.wheels.parent / "index" / "torch"
    index.mkdir(parents=True)
    wheel = next(site.wheels.glob("torch-*"))
    (index / wheel.name).write_bytes(wheel.read_bytes())
    wheel.unlink()
    (index / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    served = dataclasses.replace(site.settings, torch_index=index.parent.as_uri())

    assert ensure("small", served).exists()


def test_no_network_is_said_with_what_can_be_set(site: Site) -> None:
    site.lock("nowhere==1.0 \\\n    --hash=sha256:" + "0" * 64)

    with pytest.raises(UnavailableError, match="installing small"):
        ensure("small", site.settings)


def test_an_installation_that_does_not_import_is_not_ready(site: Site) -> None:
    site.lock(site.add("shell", "import no_such_module"))

    with pytest.raises(UnavailableError, match="does not work") as caught:
        ensure("small", site.settings)

    assert caught.value.actual == "ModuleNotFoundError: No module named 'no_such_module'"
    assert state_of(_SMALL, site.settings) is State.UNFINISHED


def test_a_distribution_that_must_be_absent_is_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        catalogue.TOOLCHAINS, "small", dataclasses.replace(_SMALL, absent=("shell",))
    )

    with pytest.raises(UnavailableError, match="does not work"):
        ensure("small", site.settings)


def test_the_doctor_sees_a_damage_that_only_an_import_shows(site: Site) -> None:
    ensure("small", site.settings)
    next(site.folder.glob("lib/*/site-packages/shell.py")).write_text("1 / 0")

    shallow = {f.subject: f for f in doctor.examine(site.settings)}["toolchain small"]
    deep = {f.subject: f for f in doctor.examine(site.settings, deep=True)}

    assert shallow.health is doctor.Health.OK
    assert deep["toolchain small"].health is doctor.Health.BAD
    assert "ZeroDivisionError" in deep["toolchain small"].detail
    assert deep["torch"].health is doctor.Health.OK


def test_a_full_disk_is_said(site: Site) -> None:
    full = dataclasses.replace(_SMALL, disk_bytes=10**18)
    catalogue.TOOLCHAINS["small"] = full

    with pytest.raises(UnavailableError, match="not enough disk space"):
        ensure("small", site.settings)


def test_a_lock_resolved_on_this_host_names_versions_and_hashes_and_no_place(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = site.wheels / "small.in"
    wanted.write_text(f"{TORCH}\nshell\n")
    monkeypatch.setattr(Toolchain, "requirements", property(lambda _: wanted))
    expected = site.add("shell")

    path = write_lock(dataclasses.replace(_SMALL, gpu_host_only=True), site.settings)

    assert path == site.settings.home / "locks" / "small.lock"
    entries = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert "\n".join(entries) == f"{expected}\n{TORCH}"
    assert str(site.wheels) not in path.read_text()
