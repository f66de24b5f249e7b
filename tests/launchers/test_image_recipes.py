"""Our own recipes: exact and hashed locks, and one real build with a real Apptainer."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conf import machine_schema, schema
from launchers.apptainer import image, image_build
from launchers.run_folder.record import read_lines
from tests.cluster.harness import Cluster
from tests.conftest import ROOT

RECIPES = ROOT / "containers"


@pytest.mark.parametrize("recipe", sorted(p.with_suffix(".def") for p in RECIPES.glob("*.lock")), ids=lambda p: p.stem)
def test_lock_every_requirement_is_exact_and_hashed(recipe: Path) -> None:
    lines = recipe.with_suffix(".lock").read_text().replace("\\\n", " ").splitlines()
    requirements = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]

    assert requirements
    assert [
        r for r in requirements if not re.fullmatch(r"[a-z0-9.+-]+==[^\s]+( +--hash=sha256:[0-9a-f]{64})+", r)
    ] == []
    assert "://" not in recipe.read_text() + recipe.with_suffix(".lock").read_text()


@pytest.fixture
def base() -> Iterator[Path]:
    """A base root file system with Python, made once per machine."""
    path = Path(os.environ.get("FAIRLEAD_TEST_BASE", "/tmp/fairlead-test-base"))
    if shutil.which("apptainer") is None:
        pytest.skip("needs Apptainer: run `make test` as root on Debian")
    if not path.is_dir():
        if os.getuid() != 0 or shutil.which("mmdebstrap") is None:
            pytest.skip("needs a base root file system: set FAIRLEAD_TEST_BASE, or run `make test` as root on Debian")
        subprocess.run([str(ROOT / "tests/testbed/testbed"), "base", str(path)], check=True, timeout=900)
    yield path


@pytest.mark.apptainer
@pytest.mark.timeout(1500)
def test_real_build_runs_torch_for_cpus_and_nothing_of_cuda(base: Path) -> None:
    images = Path(os.environ.get("FAIRLEAD_TEST_IMAGES", "/tmp/fairlead-test-images"))
    build = schema.ImageBuild(bootstrap="localimage", base=str(base), options=("--fakeroot",))
    box = machine_schema.Container(runtime="apptainer", recipe="pytorch-cpu")

    built = image_build.ensure_built(box, schema.Site(name="here", image_build=build), RECIPES, images)

    program = (
        "import json, numpy, psutil, safetensors, sklearn, torch;"
        "from importlib.metadata import distributions as all;"
        "print(json.dumps([torch.__version__, torch.version.cuda, torch.eye(3).sum().item(),"
        " sorted(d.name.lower() for d in all())]))"
    )
    argv = ["apptainer", "exec", "--containall", "--cleanenv", str(built.path), "python3", "-c", program]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    version, cuda, total, packages = json.loads(done.stdout)
    assert (cuda, total) == (None, 3.0)
    assert f"torch=={version} " in (RECIPES / "pytorch-cpu.lock").read_text()
    unwanted = ("nvidia", "triton", "mlflow", "hydra", "submitit", "optuna")
    assert [p for p in packages if p.startswith(unwanted)] == []
    assert [row["digest"] for row in image.list_images(built.path.parent) if row["name"] == built.path.name] == [
        built.digest
    ]


@pytest.mark.apptainer
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("recipe", "experiments"),
    [("jax-cpu", ("jax_digits",)), ("sklearn", ("sklearn_digits", "sklearn_splits", "xgboost_digits"))],
)
def test_examples_run_in_a_real_build_of_the_image_for_them(
    base: Path, workdir: Path, recipe: str, experiments: tuple[str, ...]
) -> None:
    here = Cluster(workdir, first=("site=testbed",))
    here.image(recipe)

    for experiment in experiments:
        run = here.launch(f"experiment={experiment}", f"container={recipe}")
        assert here.wait(run)["state"] == "SUCCEEDED"
        assert read_lines(run / "members/0/attempt-0/reports.jsonl")[-1]["metrics"]["val/accuracy"] > 0.9


@pytest.mark.apptainer
@pytest.mark.timeout(1500)
def test_r_of_the_lock_computes_the_example_in_a_real_build(base: Path, workdir: Path) -> None:
    here = Cluster(workdir, first=("site=testbed",))
    image = here.image("r-base")

    run = here.launch("-m", "experiment=r_iris", "params.degree=1,2")

    assert here.wait(run)["state"] == "SUCCEEDED"
    fits = [read_lines(run / f"members/{k}/attempt-0/reports.jsonl")[-1]["metrics"]["val/r2"] for k in (0, 1)]
    assert 0.9 < fits[0] < 1 and fits[0] != fits[1]
    argv = ["apptainer", "exec", "--containall", str(image), "cat", "/usr/share/r-base.packages"]
    packages = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
    lock = [line.split()[0] for line in (RECIPES / "r-base.lock").read_text().splitlines() if "==" in line]
    assert set(lock) < set(packages) and len(lock) == 3
