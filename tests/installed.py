"""Build wheel and sdist, install each without extras into a fresh environment, and run the base install alone.

Not collected by pytest: `make test` runs it after the tests. Everything happens in a temporary folder.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]

BASE = """
import sys, torch, wellposed as wp
assert wp.__version__
net = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))
x, y = torch.randn(60, 8), torch.randint(3, (60,))
optimizer = wp.regularize(torch.optim.Adam(net.parameters(), lr=1e-2), net, [wp.L1(1e-3).on(wp.weights)])
watch = wp.watch(net, "cross_entropy", train=(x[:30], y[:30]), valid=(x[30:], y[30:]), optimizer=optimizer)
for _ in range(30):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(net(x[:30]), y[:30]).backward()
    optimizer.step()
    watch.epoch()
found = wp.diagnose(watch)
assert len(found) >= 1 and len(optimizer.audit().rows) == 4
run = wp.fit(wp.Problem(lambda: torch.nn.Linear(8, 3), "cross_entropy", (x, y)), wp.Recipe(epochs=2))
assert len(run.history) == 2
runs = wp.fit_many(run.problem, wp.Recipe(epochs=2), seeds=range(3))
assert all("population of 3" in run.engine for run in runs), runs[0].engine
absent = [name for name in ("pandas", "sklearn", "scipy", "matplotlib", "jinja2", "typer", "optuna") if name in sys.modules]
assert not absent, absent
try:
    run.history.frame()
except wp.WellposedError as error:
    assert "pip install 'wellposed[tables]'" in str(error), error
else:
    raise AssertionError("pandas is there, so this is not the base install")
print("base install:", found[0].name)
"""


def run(*command: str | Path, cwd: Path) -> None:
    """Run a command; its output is shown where it fails."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        raise SystemExit(f"failed: {' '.join(map(str, command))[:200]}")
    print(done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "", flush=True)


def main() -> None:
    """Wheel first, then the sdist in its place."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        run(sys.executable, "-m", "build", "--no-isolation", "--outdir", place / "dist", ROOT, cwd=place)
        (wheel,), (sdist,) = (place / "dist").glob("*.whl"), (place / "dist").glob("*.tar.gz")
        venv.create(place / "env", with_pip=True)
        python = place / "env" / "bin" / "python"
        pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "-q")
        run(*pip, "-c", ROOT / "constraints.txt", wheel, cwd=place)
        run(python, "-W", "error", "-c", BASE, cwd=place)
        run(*pip, "--force-reinstall", "--no-deps", sdist, cwd=place)
        run(python, "-W", "error", "-c", BASE, cwd=place)
    print("wheel and sdist: installed and run without extras")


if __name__ == "__main__":
    main()
