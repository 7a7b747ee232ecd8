"""The two generated tasks of the quickstart: data options, recipe, and what an uninformed answer reaches."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from covt.error_lines import UsageError
from covt.recipe_files import nearest


@dataclass(frozen=True)
class Task:
    """One task; `sft` and `rl` are recipes, by name or path."""

    name: str
    sft: str
    rl: str
    data_options: dict[str, Any] = field(default_factory=dict)
    family: str = ""
    """Model family of the tiny models; empty means the default one."""
    max_tokens: int = 32
    minutes: float = 10.0
    """Expected wall time on two CPU cores."""
    decodes_latents: bool = False
    """Whether the report shows the set of cells that each latent says."""

    @property
    def source(self) -> str:
        return self.name

    def baseline(self, rows: Sequence[Any]) -> dict[str, float]:
        """`chance`, and for vsp `manhattan`: always walking straight to the goal, ignoring holes."""
        if self.name == "trace":
            return {"chance": 1 / rows[0].meta["size"] ** 2}
        from covt_data.tasks.vsp_maps import manhattan_plan
        from covt_rewards.tasks.vsp_plan import walk_plan

        right = [walk_plan(row.meta["rows"], manhattan_plan(row.meta["rows"])).success for row in rows]
        return {"manhattan": sum(right) / len(right)}


def find_task(name: str, vsp_maps: Path | None, family: str = "") -> Task:
    """The task of that name, for tiny models of a family.

    Raises:
        UsageError: unknown task or family, maps given for a task that has none, or a family whose visual tokens are not
            the cells of the task's images.
    """
    tasks = {"trace": trace, "vsp": vsp}
    if name not in tasks:
        raise UsageError(f"unknown task {name!r}{nearest(name, tasks)}", f"use one of {', '.join(tasks)}")
    if vsp_maps is not None and name != "vsp":
        raise UsageError(f"--vsp-maps with --task {name}", "add --task vsp")
    task = tasks[name](vsp_maps)
    return for_family(task, family) if family else task


def for_family(task: Task, family: str) -> Task:
    """The task with cells of the size of the family's visual tokens."""
    from covt_data.tasks.grid import CELL_PIXELS
    from covt_model.families import find_family, known_families

    if family not in known_families():
        raise UsageError(
            f"unknown family {family!r}{nearest(family, known_families())}", f"use one of {', '.join(known_families())}"
        )
    side = find_family(family).image_settings.cell
    if side == CELL_PIXELS:
        return replace(task, family=family)
    if task.name != "trace":
        raise UsageError(
            f"--task {task.name} draws cells of {CELL_PIXELS} pixels, and a visual token of {family} covers {side}",
            "use --task trace",
        )
    return replace(task, family=family, data_options=task.data_options | {"cell_pixels": side})


def trace(_: Path | None) -> Task:
    """Follow D arrows on a 4×4 map. Short paths were mostly demonstrated without latents: RL can find out better."""
    options = {"n_train": 4000, "n_prompts": 4000, "n_test": 600, "direct_hops": 3, "direct_share": 0.7}
    return Task("trace", "tiny", "tiny", options)


def vsp(maps: Path | None) -> Task:
    """Plan a path on a 3×3 or 4×4 FrozenLake map.

    With `maps`, the published maps of levels 3 and 4 are the test set, and the generated test maps a second one.
    """
    options: dict[str, Any] = {"n_test": 400, "test_sizes": (3, 4, 4, 4)}
    if maps is not None:
        if not maps.is_dir():
            raise UsageError(f"--vsp-maps {maps} is not a folder", "give the folder of the published maps")
        options |= {"maps": str(maps), "n_test": 600, "test_sizes": (4,)}
    return Task("vsp", "vsp", "vsp", options, max_tokens=48, minutes=25.0, decodes_latents=True)
