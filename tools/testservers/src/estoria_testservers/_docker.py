"""Servers in containers, where a Docker daemon answers."""

import functools
import gc
import os
import time
import warnings
from collections.abc import Sequence
from typing import Any

from estoria_testservers._errors import ServerStartError


def daemon_answers() -> str | None:
    """What is wrong with Docker; `None` where its daemon answers.

    A `docker` client on PATH proves nothing, so the daemon itself is asked.
    """
    return _daemon_answers(os.environ.get("DOCKER_HOST"))


@functools.cache
def _daemon_answers(_host: str | None) -> str | None:
    # Imported here because most runs never come to this rung.
    import docker  # type: ignore[import-untyped]  # noqa: PLC0415 - it ships no types

    problem = None
    with warnings.catch_warnings():
        # Where nobody listens, docker leaves its socket to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            client = docker.from_env(timeout=5)
            client.ping()
            client.close()
        except (docker.errors.DockerException, OSError) as error:
            problem = f"the Docker daemon does not answer ({type(error).__name__})"
        gc.collect()
    return problem


class ContainerProcess:
    """A server in a container, on the network of this machine.

    On the host's network every server keeps the address that its clients use, as replica sets,
    clusters and sentinels need it. The data lives in the container until it is closed.
    """

    def __init__(self, image: str, command: Sequence[str], environ: dict[str, str]) -> None:
        self._image, self._command, self._environ = image, list(command), environ
        self._container: Any = None

    @property
    def alive(self) -> bool:
        """Whether the container runs."""
        if self._container is None:
            return False
        self._container.reload()
        return bool(self._container.status in {"running", "paused"})

    @property
    def pid(self) -> int | None:
        """The process id of the server on this machine, if it runs."""
        if not self.alive:
            return None
        return int(self._container.attrs["State"]["Pid"])

    def start(self) -> None:
        """Start the container, or start it again."""
        if self._container is not None:
            self._container.start()
            return
        import docker  # noqa: PLC0415 - seldom needed
        from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - seldom needed

        try:
            container = DockerContainer(self._image, network_mode="host")
            container.with_command(self._command)
            for name, value in self._environ.items():
                container.with_env(name, value)
            self._container = container.start().get_wrapped_container()
        except docker.errors.DockerException as error:
            raise ServerStartError(f"the container of {self._image}", str(error)) from error

    def stop(self, patience: float) -> None:
        """Ask the server to end, and wait for it."""
        self._container.stop(timeout=int(patience))

    def kill(self) -> None:
        """Kill the server at once."""
        if self.alive:
            self._container.kill()
        while self.alive:
            time.sleep(0.02)

    def pause(self) -> None:
        """Freeze the server."""
        self._container.pause()

    def resume(self) -> None:
        """Let a frozen server go on."""
        self._container.unpause()

    def output(self) -> str:
        """The last lines that the server printed."""
        if self._container is None:
            return ""
        return str(self._container.logs(tail=40).decode(errors="replace"))

    def close(self) -> None:
        """Remove the container and its data."""
        if self._container is not None:
            self._container.remove(force=True, v=True)
            self._container = None
