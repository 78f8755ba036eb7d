"""Time of `import wellposed` and of `wellposed --help`, beside Python alone.

    python benchmarks/startup.py [--repeats 20]

Whole processes, alternating, the minimum of each; the difference to `python -c pass` is what the package costs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import wellposed": [sys.executable, "-c", "import wellposed"],
    "wellposed --help": [sys.executable, "-m", "wellposed.cli.main", "--help"],
}


def main() -> None:
    """Print seconds for each command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    best = dict.fromkeys(COMMANDS, float("inf"))
    for _ in range(repeats):
        for name, command in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            best[name] = min(best[name], time.perf_counter() - began)
    print(f"minimum of {repeats} runs each\n| command | seconds | above Python |\n|---|---|---|")
    for name, seconds in best.items():
        print(f"| `{name}` | {seconds:.3f} | {seconds - best['python -c pass']:.3f} |")


if __name__ == "__main__":
    main()
