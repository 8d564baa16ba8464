"""The wheel carries all it needs: installed alone, and run from an empty folder, it searches."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.support.command_line import SMALL_TOY

RUN = """\
import runpy
import advnas_lightning
print(advnas_lightning.__file__)
runpy.run_module("advnas_lightning", run_name="__main__", alter_sys=True)
"""
APP = """\
import hydra

@hydra.main(version_base="1.3", config_path=None)
def main(config):
    print(config)

main()
"""


def test_the_wheel_runs_from_an_empty_folder(tmp_path: Path) -> None:
    root, wheels, site, empty = Path(__file__).parents[1], tmp_path / "wheels", tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = tmp_path / "source"  # setuptools builds inside the tree that it is given
    subprocess.run(["git", "clone", "--quiet", str(root), str(source)], check=False)
    if not (source / "pyproject.toml").exists():
        source = root
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(wheels), str(source)], check=True)
    (wheel,) = wheels.glob("*.whl")
    modules = {str(path.relative_to(source)) for path in (source / "advnas_lightning").rglob("*.py")}
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in modules if "hydra_plugins" not in name} <= names
    assert "hydra_plugins/advnas_search_path/__init__.py" in names
    assert "hydra_plugins/advnas_submitit_launcher/__init__.py" in names
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-c", RUN, "hydra.run.dir=run", *SMALL_TOY]
    found = subprocess.run(command, cwd=empty, env=environment, check=True, capture_output=True, text=True).stdout
    assert found.startswith(str(site))
    assert (empty / "run" / "summary.json").exists()
    command = [sys.executable, str(site / "bin" / "advnas"), "report", "run"]
    subprocess.run(command, cwd=empty, env=environment, check=True, capture_output=True)
    assert (empty / "report" / "report.html").exists()
    app = empty / "app.py"
    app.write_text(APP)
    command = [sys.executable, str(app), "+strategy=gdas"]  # another project's, which does not name our configuration
    found = subprocess.run(command, cwd=empty, env=environment, check=True, capture_output=True, text=True).stdout
    assert "advnas_lightning.GDAS" in found
