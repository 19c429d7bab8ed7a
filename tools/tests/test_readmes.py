"""Every block of code in every README and on every page of the documentation does what it says.

The blocks of one file run in order, in one folder, on one database; programs as they are
printed, but for the URLs of servers, which become those of the servers at hand.
"""

import re
import subprocess
import sys
import tomllib
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("packages/*/README.md")),
    *sorted(ROOT.glob("tools/*/README.md")),
    *sorted(ROOT.glob("tools/docs/**/*.md")),
]
BLOCK = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
URL = re.compile(r"\b(postgresql|mongodb|redis|valkey|kurrentdb)://[^\s\"'`]+")
SCRIPTS = tomllib.loads((ROOT / "hatch.toml").read_text())["envs"]
PACKAGES = {
    path.parent.name: tomllib.loads(path.read_text())["project"]
    for path in ROOT.glob("packages/*/pyproject.toml")
}


class Runner:
    """Runs the blocks of one file."""

    def __init__(self, folder, request):
        self.folder, self.request = folder, request
        self.urls = {}
        self.stack = ExitStack()

    def url(self, scheme):
        if scheme not in self.urls:
            self.urls[scheme] = self._url(scheme)
        return self.urls[scheme]

    def _url(self, scheme):
        if scheme == "postgresql":
            server = self.request.getfixturevalue("newest_postgres_server")
            return self.stack.enter_context(server.database())
        return self.request.getfixturevalue(f"{scheme}_server").url

    def run(self, language, text):
        text = URL.sub(lambda match: self.url(match[1]), text)
        getattr(self, f"_run_{language or 'command'}")(text)

    def _run_python(self, text):
        module = self.folder / "test_block.py"
        module.write_text(text)
        command = [sys.executable, "-X", "dev", "-W", "error", str(module)]
        if re.search(r"^(class Test|def test_|async def test_)", text, re.MULTILINE):
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
            command += ["-o", "asyncio_default_fixture_loop_scope=function", str(module)]
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, text + done.stdout + done.stderr

    def _run_sql(self, text):
        with psycopg.connect(self.url("postgresql")) as connection:
            connection.execute(text)

    def _run_sh(self, text):
        self._run_command(text)

    def _run_command(self, text):
        """Commands aren't run, as they are run elsewhere, but each names what is there."""
        text = text.replace("\\\n", " ")
        for line in filter(None, (line.partition("#")[0].strip() for line in text.splitlines())):
            for command in line.split("&&"):
                words = [word for word in command.split() if not re.match(r"[A-Z_]+=", word)]
                self._check_command(words)

    def _check_command(self, words):
        match words:
            case ["hatch", "run", name, *arguments]:
                environment, _, script = name.rpartition(":")
                assert (
                    script in SCRIPTS["default"]["scripts"]
                    or script in (SCRIPTS[environment]["scripts"])
                ), name
                for argument in arguments:
                    assert "/" not in argument or "://" in argument or (ROOT / argument).exists()
            case ["hatch", "env" | "build", *_] | ["git", *_]:
                pass
            case ["pip", "install", *requirements]:
                for requirement in requirements:
                    name, _, extra = requirement.strip("'\"]").partition("[")
                    assert name == "hatch" or name in PACKAGES, name
                    assert not extra or extra in PACKAGES[name]["optional-dependencies"], extra
            case ["python", "-m", module, *_]:
                subprocess.run([sys.executable, "-c", f"import {module}.__main__"], check=True)
            case ["python", program, *_]:
                assert (ROOT / program).exists(), program
            case _:
                pytest.fail(f"nothing here knows {' '.join(words)!r}")

    def _run_text(self, text):
        """What a program prints."""

    def _run_toml(self, text):
        tomllib.loads(text)


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_its_blocks_of_code_do_what_they_say(file, tmp_path, request):
    runner = Runner(tmp_path, request)
    with runner.stack:
        for indent, language, text in BLOCK.findall(file.read_text()):
            runner.run(language, re.sub(rf"^{indent}", "", text, flags=re.MULTILINE))


def test_every_package_shows_code():
    for name in PACKAGES:
        text = (ROOT / "packages" / name / "README.md").read_text()
        assert any(language == "python" for _, language, _ in BLOCK.findall(text)), name


def test_a_block_that_is_wrong_is_found(tmp_path, request):
    runner = Runner(tmp_path, request)
    for language, text in (
        ("python", "import estoria.core\nestoria.core.nothing\n"),
        ("python", "def test_it():\n    assert False\n"),
        ("", "hatch run nothing\n"),
        ("", "pip install estoria-nothing\n"),
        ("", "pip install estoria-core[nothing]\n"),
        ("", "rm -rf somewhere\n"),
    ):
        with pytest.raises((AssertionError, pytest.fail.Exception, KeyError)):
            runner.run(language, text)
