"""How long an alignment takes, and how long it took at another revision, in turns: both see the same machine. Simulated
scenes, the default matcher, a process for each run, as a user has it. The other revision is laid out beside the scenes
and run with the packages that are installed here."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import click

from pipelines.common import Command, Run, Scene, markdown, out_option, simulate

_SEED = 7


@click.command(cls=Command)
@out_option("speed", "--work")
@click.option("--against", metavar="REV", help="A revision of this repository.")
@click.option("--sizes", default="500x500,1500x1200,3000,6000,12000", show_default=True, help="Of the scenes, pixels.")
@click.option("--times", type=click.IntRange(min=1), default=3, show_default=True, help="Runs; the median counts.")
def main(work: Path, against: str | None, sizes: str, times: int) -> None:
    """Measure and print; with nothing else at work on the machine."""
    work = work.absolute()
    trees: dict[str, Path | None] = {against: laid_out(against, work)} if against else {}
    trees["here"] = None
    rows = []
    for size in sizes.split(","):
        scene, runs = simulate(work, size, _SEED), {name: list[Run]() for name in trees}
        for _ in range(times):
            for name, tree in trees.items():
                runs[name].append(scene.align(work / "speed.tif", may_refuse=True, tree=tree))
        rows += [row(size, name, runs[name], runs[against] if against else None) for name in trees]
        both = median(at_once(scene, work) for _ in range(times)) / median(run.seconds for run in runs["here"])
        rows.append((size, "two at once over one alone", f"{both:.2f} x", "", "", ""))
    head = ("size, px", "code", "wall, s", "processor, s", "memory, GiB", f"of {against}'s wall, processor time")
    click.echo(markdown(head if against else head[:-1], rows if against else [row[:-1] for row in rows]), nl=False)


def laid_out(revision: str, work: Path) -> Path:
    """A work tree of a revision, made once. Raises click.ClickException where there is no such revision."""

    def git(*arguments: str | Path) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True)
        if done.returncode:
            raise click.ClickException(f"--against {revision}: {done.stderr.strip().splitlines()[-1]}")
        return done.stdout.strip()

    tree = work / f"tree-{git('rev-parse', '--verify', '--short', f'{revision}^{{commit}}')}"
    if not tree.exists():
        git("worktree", "add", "--detach", tree, revision)
    return tree


def at_once(scene: Scene, work: Path) -> float:
    """Seconds until two alignments of one scene that begin together are done."""
    with ThreadPoolExecutor(2) as pool:
        runs = pool.map(lambda k: scene.align(work / f"speed{k}.tif", may_refuse=True), range(2))
    return max(run.seconds for run in runs)


def row(size: str, name: str, runs: list[Run], before: list[Run] | None) -> tuple[str, ...]:
    """A line of the table: medians, and what share of those before they are."""
    wall, processor, memory = (median(getattr(r, field) for r in runs) for field in ("seconds", "processor", "memory"))
    share = ""
    if before is not None and before is not runs:
        share = f"{wall / median(r.seconds for r in before):.2f}, {processor / median(r.processor for r in before):.2f}"
    return size, name, f"{wall:.1f}", f"{processor:.1f}", f"{memory:.2f}", share


if __name__ == "__main__":
    main()
