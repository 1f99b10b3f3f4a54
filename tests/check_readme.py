"""Make the README's table again and compare (make check-readme): about half an hour on two cores. Usage: python tests/check_readme.py"""

import re
import shlex
import subprocess
import sys

import pandas as pd
from documents import commands

from m2clip_lib import paths

README = paths.ROOT / "README.md"
VARIANTS = {"no visual adapters": "none", "static adapter": "static adapter", "full M2-CLIP": "full"}
MEASURES = ("top1", "direction", "backwards_true", "backwards_opposite")
CELL = re.compile(r"([\d.]+) \(([\d.]+) to ([\d.]+)\)")
ROUNDING = 0.051  # the README has one decimal


def told(text: str) -> dict[tuple[str, str], tuple[float, float, float]]:
    """(variant, measure) -> mean, lowest and highest of the README's table."""
    found = {}
    for line in text.splitlines():
        name, *cells = [cell.strip().strip("*") for cell in line.strip("|").split("|")]
        variant = VARIANTS.get(name.split(":")[0])
        if variant and len(cells) == len(MEASURES):
            found |= {
                (variant, measure): tuple(map(float, CELL.fullmatch(cell).groups())) for measure, cell in zip(MEASURES, cells, strict=True)
            }
    return found


def differences(text: str, summary: pd.DataFrame, exact: bool) -> list[str]:
    """What a study's summary says otherwise: a mean (exact), or one outside the README's range; a range that is wider than the README's."""
    rows, wrong = summary[summary.readout == "ensemble"].set_index("variant"), []
    for (variant, measure), (mean, low, high) in told(text).items():
        row = rows.loc[variant]
        if exact and abs(row[measure] - mean) > ROUNDING:
            wrong.append(f"{variant}, {measure}: README {mean}, study {row[measure]:.2f}")
        least, most = (row[f"{measure}_min"], row[f"{measure}_max"]) if exact else (row[measure], row[measure])
        if least < low - ROUNDING or most > high + ROUNDING:
            wrong.append(f"{variant}, {measure}: README {low} to {high}, study {least:.2f} to {most:.2f}")
    return wrong


def main() -> None:
    """Run the study of the README under another name, and compare its means with the README's ranges."""
    text = README.read_text(encoding="utf-8")
    (command,) = [command for command in commands(README) if "--run study" in command]
    program, *arguments = shlex.split(command.replace("--run study", "--run check_readme"))
    subprocess.run([sys.executable, "-m", "m2clip_lib", *arguments], check=True)
    summary = pd.read_csv(paths.RESULTS / "check_readme" / "tables" / "ablation_components_summary.csv")
    wrong = differences(text, summary, exact=False)
    print("\n".join(wrong) or f"README: all {len(told(text))} means of {program}'s study lie within their ranges")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
