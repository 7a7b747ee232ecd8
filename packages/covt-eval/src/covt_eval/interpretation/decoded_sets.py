"""What a model's latents say: each latent of a `vsp` answer decoded to a set of cells, beside the set it stands for.

A latent is read by a linear map from visual features to marked cells, fitted to thumbnails of random sets. Holes, waves
and path have maps of their own, chosen by the latent's place in the answer. The share of real thumbnails that they read
without an error is written beside what they read in the latents.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from covt_data.store.prepared_set import PreparedSet
from covt_data.tasks.vsp_sets import LARGEST, SEGMENTS, CellSet, Kind, draw_set, latent_sets
from covt_eval.eval_errors import EvalError
from covt_eval.interpretation.shown_rows import Answerer, ShownRows, load_answerer

if TYPE_CHECKING:
    import torch

    from covt_data.schema import Row
    from covt_data.tasks.grid import Cell

RANDOM_SETS = 1500
"""Random sets of holes, and as many random waves, that the map is fitted to; of the path it is all pairs of cells."""
JUDGED_ROWS = 200
"""Rows over which the shares of right sets are counted."""
RIDGE = 1e-5
THRESHOLD = 0.5
LATENTS_FILE = "latents.json"

Marks = dict["Cell", Kind]


Role = Literal["holes", "wave", "path"]
KINDS_OF: dict[Role, tuple[Kind, ...]] = {"holes": ("hole",), "wave": ("wave",), "path": ("agent", "before")}


@dataclass(frozen=True)
class SetReader:
    """Reads a set of cells from a feature [H].

    Attributes:
        size: cells per side of the largest map.
        weights: [H + 1, cells · kinds] by role, the last row is the bias.
    """

    size: int
    weights: dict[Role, np.ndarray]

    @classmethod
    def fit(cls, size: int, examples: Mapping[Role, tuple[torch.Tensor, Sequence[Marks]]]) -> SetReader:
        """Fit by ridge regression; examples: features [N, H] and the sets they show, by role."""
        weights: dict[Role, np.ndarray] = {}
        for role, (features, sets) in examples.items():
            wanted = np.zeros((len(sets), size, size, len(KINDS_OF[role])))
            for number, marks in enumerate(sets):
                for cell, kind in marks.items():
                    wanted[number, *cell, KINDS_OF[role].index(kind)] = 1
            inputs = _with_bias(features)
            ridge = RIDGE * len(inputs) * np.eye(inputs.shape[1])
            weights[role] = np.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ wanted.reshape(len(sets), -1))
        return cls(size, weights)

    def read(self, latents: torch.Tensor, roles: Sequence[Role]) -> list[Marks]:
        """The marked cells that each of the latents [N, H] says, given its role."""
        found: list[Marks] = []
        for values, role in zip(_with_bias(latents), roles, strict=True):
            scores = (values @ self.weights[role]).reshape(self.size, self.size, -1)
            cells = np.argwhere(scores.max(-1) > THRESHOLD).tolist()
            found.append({(row, column): KINDS_OF[role][scores[row, column].argmax()] for row, column in cells})
        return found


def write_decoded(folder: Path, model: Path, data: Path, *, split: str = "test") -> Path:
    """Write what each latent says into `folder/samples/samples.json` and `folder/latents.json`.

    The first has a list `decoded` for each row shown: name, map size, and the cells of each latent that are right,
    wrong and missed. The second has, for each latent, the share of rows in which its set is exactly right.

    Raises:
        EvalError: the set's latents stand for no sets of cells, or none of the rows shown is in the set.
    """
    shown = ShownRows.read(folder, data, split)
    first = shown.rows[0].meta
    if first.get("latents") not in SEGMENTS:
        raise EvalError(
            f"{data} has no latents that stand for sets of cells", "decode a set of vsp with latents=wavefront"
        )
    answerer = load_answerer(model)
    judged = [row for row in PreparedSet(data).rows(split, JUDGED_ROWS) if len(row.meta["rows"]) <= LARGEST]
    reader = fit_reader(max(len(row.meta["rows"]) for row in (*judged, *shown.rows)), answerer)
    for sample, row, latents in zip(shown.samples, shown.rows, answerer.latents(shown.rows), strict=True):
        sample["decoded"] = [compare(*pair, len(row.meta["rows"])) for pair in pair_sets(row, latents, reader)]
    shown.write()
    counted = count_exact(judged, answerer.latents(judged), reader)
    counted["reader"] = read_share(judged, answerer, reader)
    path = folder / LATENTS_FILE
    path.write_text(json.dumps(counted, indent=1), encoding="utf-8")
    return path


def fit_reader(size: int, answerer: Answerer) -> SetReader:
    """Fit a reader to thumbnails of random sets on maps of up to `size` × `size` cells."""
    sets = random_sets(size)
    return SetReader.fit(
        size, {role: (answerer.normalized_features([_draw(one) for one in some]), some) for role, some in sets.items()}
    )


def random_sets(size: int) -> dict[Role, list[Marks]]:
    """Random holes, random waves, and every agent with every cell before and with none."""
    random, cells = np.random.default_rng(0), [divmod(place, size) for place in range(size * size)]
    sets: dict[Role, list[Marks]] = {"holes": [], "wave": [], "path": []}
    for role in ("holes", "wave"):
        for share in random.uniform(0, 0.5, RANDOM_SETS):
            chosen = [cell for cell, is_in in zip(cells, random.random(len(cells)) < share, strict=True) if is_in]
            sets[role].append(dict.fromkeys(chosen, KINDS_OF[role][0]))
    for agent in cells:
        sets["path"].append({agent: "agent"})
        for before in cells:
            if before != agent:
                sets["path"].append({agent: "agent", before: "before"})
    return sets


def read_share(rows: Sequence[Row], answerer: Answerer, reader: SetReader) -> float:
    """Share of the thumbnails of these rows' sets that the reader reads without an error."""
    right: list[bool] = []
    for row in rows:
        for roles, sets in sets_of(row):
            features = answerer.normalized_features([draw_set(one.marks).bytes for one in sets])
            right += [dict(one.marks) == read for one, read in zip(sets, reader.read(features, roles), strict=True)]
    return float(np.mean(right))


def sets_of(row: Row) -> list[tuple[list[Role], list[CellSet]]]:
    """The roles of a row's latents and the sets that they stand for, by segment."""
    latents, count = row.meta["latents"], row.meta["latent_size"]
    roles: dict[str, list[Role]] = {"wave": ["holes", *["wave"] * (count - 1)], "path": ["path"] * count}
    sets = latent_sets(row.meta["rows"], latents, count)
    return [(roles[name], some) for name, some in zip(SEGMENTS[latents], sets, strict=True)]


def pair_sets(row: Row, latents: Sequence[torch.Tensor], reader: SetReader) -> list[tuple[CellSet, Marks]]:
    """The set that each latent stands for and the set that it says; latents [K, H] by segment of the answer."""
    return [
        pair
        for (roles, sets), segment in zip(sets_of(row), latents, strict=False)
        for pair in zip(sets, reader.read(segment, roles[: len(segment)]), strict=False)
    ]


def compare(expected: CellSet, found: Marks, size: int) -> dict[str, Any]:
    """The cells of one latent for the report: [row, column, kind] each, by right, wrong and missed."""
    wanted = dict(expected.marks)
    return {
        "name": expected.name,
        "size": size,
        "right": [[*cell, kind] for cell, kind in found.items() if wanted.get(cell) == kind],
        "wrong": [[*cell, kind] for cell, kind in found.items() if wanted.get(cell) != kind],
        "missed": [[*cell, kind] for cell, kind in wanted.items() if found.get(cell) != kind],
    }


def count_exact(rows: Sequence[Row], latents: Sequence[Sequence[torch.Tensor]], reader: SetReader) -> dict[str, Any]:
    """Shares of rows in which each latent's set is exactly right; a latent that an answer lacks is not."""
    names: list[str] = []
    exact: list[int] = []
    for row, segments in zip(rows, latents, strict=True):
        pairs = pair_sets(row, segments, reader)
        if len(pairs) > len(names):
            exact += [0] * (len(pairs) - len(names))
            names = [expected.name for expected, _ in pairs]
        for number, (expected, found) in enumerate(pairs):
            exact[number] += dict(expected.marks) == found
    shares = [count / len(rows) for count in exact]
    return {
        "rows": len(rows),
        "latents": [list(pair) for pair in zip(names, shares, strict=True)],
    }


def _with_bias(features: torch.Tensor) -> np.ndarray:
    values = features.double().numpy()
    return np.concatenate([values, np.ones((len(values), 1))], axis=1)


def _draw(marks: Marks) -> bytes:
    return draw_set(tuple(sorted(marks.items()))).bytes
