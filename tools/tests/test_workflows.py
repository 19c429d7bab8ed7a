"""The workflows name only what there is, and wait for what they need."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = {
    path.stem: yaml.safe_load(path.read_text()) for path in ROOT.glob(".github/workflows/*.yml")
}
ENVIRONMENTS = tomllib.loads((ROOT / "hatch.toml").read_text())["envs"]


def commands(workflow):
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            yield from re.sub(r"\$\{\{.*?\}\}", "X", step.get("run", "")).splitlines()


def test_there_are_three():
    assert sorted(WORKFLOWS) == ["ci", "drift", "release"]


@pytest.mark.parametrize("workflow", WORKFLOWS.values(), ids=WORKFLOWS)
def test_every_command_is_there(workflow):
    for command in commands(workflow):
        for environment, script in re.findall(r"hatch run (?:(\S+?):)?([a-z]+)", command):
            assert script in ENVIRONMENTS["default"]["scripts"], command
            assert not environment or environment.split(".")[0] in ENVIRONMENTS, command
        for program in re.findall(r"tools/\w+\.py", command):
            assert (ROOT / program).exists()


@pytest.mark.parametrize("workflow", WORKFLOWS.values(), ids=WORKFLOWS)
def test_no_job_may_write_but_the_one_that_publishes(workflow):
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        expected = {"id-token": "write"} if name == "publish" else None
        assert job.get("permissions") == expected


def test_the_closing_job_waits_for_all_others():
    jobs = WORKFLOWS["ci"]["jobs"]

    assert set(jobs["done"]["needs"]) == set(jobs) - {"done"}
    assert jobs["done"]["if"] == "always()"


def test_what_is_published_was_built_and_tried_before():
    jobs = WORKFLOWS["release"]["jobs"]
    steps = [step.get("run", step.get("uses")) for step in jobs["build"]["steps"]]

    assert jobs["publish"]["needs"] == "build"
    verify = next(n for n, step in enumerate(steps) if "--verify" in step)
    trial = next(n for n, step in enumerate(steps) if "hatch run wheels" in step)
    upload = next(n for n, step in enumerate(steps) if "upload-artifact" in step)
    assert verify < trial < upload
