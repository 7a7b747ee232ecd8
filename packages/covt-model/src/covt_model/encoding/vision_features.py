"""Vision-tower features of pictures: computed once for each distinct picture when the tower is frozen."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

import torch

from covt_model.encoding.row_images import Picture
from covt_model.families import find_family
from covt_model.families.image_settings import ImageSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Agree = Callable[[int], int]


def forward_pictures(
    visual: PreTrainedModel,
    pixels: Sequence[torch.Tensor],
    settings: ImageSettings,
    *,
    chunk: int,
    agree: Agree | None,
) -> list[torch.Tensor]:
    """Merged features of decoded pictures, in order: one [n_i, H] tensor each, with gradients if enabled.

    visual: the model's vision tower. Same-sized pictures go together, `chunk` a forward. `agree` maps this rank's
    number of forwards to the largest over all ranks; the difference is made up with one-cell blank pictures, because
    under ZeRO-3 every forward gathers parameters on every rank.
    """
    patchify = find_family(settings.model_type).patchify
    device = next(visual.parameters()).device
    dtype = next(visual.parameters()).dtype
    by_size: dict[tuple[int, ...], list[int]] = {}
    for number, picture in enumerate(pixels):
        by_size.setdefault(tuple(picture.shape), []).append(number)
    calls = [members[start : start + chunk] for members in by_size.values() for start in range(0, len(members), chunk)]
    features: list[torch.Tensor | None] = [None] * len(pixels)
    for members in calls:
        values, grid = patchify(torch.stack([pixels[number] for number in members]), settings)
        merged = _run(visual, values.to(device, dtype), torch.tensor([grid] * len(members), device=device))
        for number, feature in zip(members, merged.chunk(len(members)), strict=True):
            features[number] = feature
    idle = (agree(len(calls)) if agree else len(calls)) - len(calls)
    blank = torch.zeros(1, 3, settings.cell, settings.cell, dtype=torch.uint8)
    for _ in range(idle):
        values, grid = patchify(blank, settings)
        _run(visual, values.to(device, dtype), torch.tensor([grid], device=device))
    return [feature for feature in features if feature is not None]


def _run(visual: PreTrainedModel, values: torch.Tensor, grids: torch.Tensor) -> torch.Tensor:
    return visual(values, grid_thw=grids).pooler_output


class _Recent(OrderedDict[bytes, torch.Tensor]):
    """Tensors by name, the least recently used first, and the bytes they take together."""

    def __init__(self) -> None:
        self.bytes = 0
        super().__init__()

    def __setitem__(self, name: bytes, tensor: torch.Tensor) -> None:
        self.bytes += tensor.nbytes - (self[name].nbytes if name in self else 0)
        super().__setitem__(name, tensor)

    def shrink(self, most: int, most_bytes: int) -> None:
        """Forget the oldest until at most this much is left."""
        while self and (len(self) > most or self.bytes > most_bytes):
            _, tensor = self.popitem(last=False)
            self.bytes -= tensor.nbytes


class VisionFeatures:
    """Features of pictures from one vision tower, cached while it is frozen.

    Two keys lead to a feature: the encoded bytes with the crop box, which saves decoding, and the decoded pixels,
    which saves the forward for crops that look the same in different pictures. A tower that looks at one cell at a
    time runs once for each distinct cell. While frozen, each forward has one picture (or cell), so that a feature
    depends to the last bit on its picture alone, not on what a resumed run or another rank computes beside it; `chunk`
    pictures go together otherwise. The cache keeps the `capacity` most recently used pictures (and as many
    crops or cells) on the tower's device, in at most `capacity_bytes` each.
    """

    def __init__(
        self,
        visual: PreTrainedModel,
        settings: ImageSettings,
        *,
        frozen: bool = True,
        chunk: int = 64,
        capacity: int = 200_000,
        capacity_bytes: int = 8 << 30,
        agree: Agree | None = None,
    ) -> None:
        self.visual, self.settings = visual, settings
        self.frozen, self.chunk, self.agree = frozen, chunk, agree
        self.capacity, self.capacity_bytes = capacity, capacity_bytes
        self.family = find_family(settings.model_type)
        self.cellwise = frozen and self.family.is_cellwise(visual.config)
        self._by_key, self._by_pixels = _Recent(), _Recent()

    def __call__(self, pictures: Sequence[Picture]) -> list[torch.Tensor]:
        """One [n_i, H] tensor a picture. Every rank must call this equally often when `agree` is set."""
        if not self.frozen:
            pixels = [picture.pixels() for picture in pictures]
            return forward_pictures(self.visual, pixels, self.settings, chunk=self.chunk, agree=self.agree)
        self._fill(pictures)
        found = [self._by_key[picture.key] for picture in pictures]
        for cache in (self._by_key, self._by_pixels):
            cache.shrink(self.capacity, self.capacity_bytes)
        return found

    def move(self, device: torch.device | str) -> None:
        """Move the tower; the cache, which lies on its device, is emptied."""
        torch.nn.Module.to(self.visual, device)
        self._by_key, self._by_pixels = _Recent(), _Recent()

    @torch.no_grad()
    def _fill(self, pictures: Sequence[Picture]) -> None:
        waiting: dict[bytes, list[bytes]] = {}
        decoded: dict[bytes, torch.Tensor] = {}
        for key, picture in {picture.key: picture for picture in pictures}.items():
            if key in self._by_key:
                self._by_key.move_to_end(key)
                continue
            parts = []
            for pixels in self._parts(picture.pixels()):
                name = repr(pixels.shape).encode() + blake2b(pixels.numpy().data, digest_size=16).digest()
                parts.append(name)
                if name in self._by_pixels:
                    self._by_pixels.move_to_end(name)
                else:
                    decoded[name] = pixels
            waiting[key] = parts
        features = forward_pictures(self.visual, list(decoded.values()), self.settings, chunk=1, agree=self.agree)
        # A chunk's features are views of one tensor: copied, or an evicted picture would keep the others in memory.
        self._by_pixels.update(zip(decoded, (feature.clone() for feature in features), strict=True))
        for key, parts in waiting.items():
            found = [self._by_pixels[name] for name in parts]
            self._by_key[key] = found[0] if len(found) == 1 else torch.cat(found)

    def _parts(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """The pieces of a picture that the tower computes apart from each other: its cells, or the picture itself."""
        if not self.cellwise:
            return [pixels]
        return list(to_cells(self.family.resize(pixels[None], self.settings)[0], self.settings.cell))


def to_cells(picture: torch.Tensor, cell: int) -> torch.Tensor:
    """[3, H, W] of whole cells → [n, 3, cell, cell], row by row, as the visual tokens are ordered."""
    rows, columns = picture.shape[1] // cell, picture.shape[2] // cell
    cells = picture.view(3, rows, cell, columns, cell).permute(1, 3, 0, 2, 4)
    return cells.reshape(rows * columns, 3, cell, cell).contiguous()
