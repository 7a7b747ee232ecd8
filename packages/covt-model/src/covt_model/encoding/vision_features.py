"""Features of pictures from a frozen vision tower: many pictures per forward, each distinct picture once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from covt_model.encoding.decoded_pictures import DecodedPictures, Patches, PictureDecoder
from covt_model.encoding.row_images import Picture
from covt_model.families import find_family
from covt_model.families.image_settings import ImageSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH_PATCHES = 16_384
"""Patches per forward: three pictures of a megapixel, in patches of 14 × 14 pixels."""
CELLS = 32
"""Cells per forward of a tower that computes each cell independently. Smaller batches are padded with blank cells, so
that a cell's feature depends on the cell alone, to the last bit."""


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
    """Features of pictures from one frozen vision tower, cached.

    Two keys lead to a feature: the encoded bytes with the crop box, which saves decoding, and the decoded pixels,
    which saves the forward for crops that look the same in different pictures. A tower that looks at one cell at a
    time runs once for each distinct cell. With DeepStack a feature has the columns that `Family.visual_features`
    describes. No picture sees another in a forward. But the order of sums in a matrix
    product depends on the size of the matrix, so what is computed beside a picture may change its feature's last bits.

    Args:
        visual: the model's vision tower.
        settings: image settings of the checkpoint.
        batch_patches: most patches per forward; a larger picture gets a forward of its own; with 0 every picture does.
        capacity: most pictures, and as many crops or cells, that are kept on the tower's device.
        capacity_bytes: most bytes of each.
        keeps: whether features outlive their step, which pays where pictures are seen again in later ones.
    """

    def __init__(
        self,
        visual: PreTrainedModel,
        settings: ImageSettings,
        *,
        batch_patches: int = BATCH_PATCHES,
        capacity: int = 200_000,
        capacity_bytes: int = 8 << 30,
        keeps: bool = True,
    ) -> None:
        self.visual = visual
        self.keeps = keeps
        self.batch_patches = batch_patches
        self.capacity, self.capacity_bytes = capacity, capacity_bytes
        self.family = find_family(settings.model_type)
        self.decoder = PictureDecoder(self.family, settings, self.family.is_cellwise(visual))
        self._decoded: DecodedPictures = {}
        self._forget()

    @property
    def known(self) -> Container[bytes]:
        """Keys of pictures whose features later steps will find; any thread may ask whether one is among them."""
        return self._by_key if self.keeps else ()

    @property
    def bytes(self) -> int:
        """Bytes of the pictures' features at the moment."""
        return self._by_key.bytes

    def begin_step(self, decoded: DecodedPictures | None = None) -> None:
        """Take the pictures decoded ahead for a step in place of an earlier one's, and forget what isn't kept."""
        self._decoded = decoded or {}
        if not self.keeps:
            self._forget()

    def __call__(self, pictures: Sequence[Picture]) -> list[torch.Tensor]:
        """Features [n_i, W] of each picture: the merger's output in the first H columns, then those of DeepStack."""
        self._fill(pictures)
        found = [self._by_key[picture.key] for picture in pictures]
        for cache in (self._by_key, self._by_pixels):
            cache.shrink(self.capacity, self.capacity_bytes)
        return found

    def merged(self, pictures: Sequence[Picture]) -> list[torch.Tensor]:
        """The merger's output [n_i, H] of each picture."""
        width: int = self.visual.config.out_hidden_size
        return [features[:, :width] for features in self(pictures)]

    def move(self, device: torch.device | str) -> None:
        """Move the tower; the cache, which lies on its device, is emptied."""
        torch.nn.Module.to(self.visual, device)
        self._forget()

    def _forget(self) -> None:
        self._by_key, self._by_pixels = _Recent(), _Recent()

    @torch.no_grad()
    def _fill(self, pictures: Sequence[Picture]) -> None:
        """Compute the features that are not kept."""
        waiting: dict[bytes, list[bytes]] = {}
        missing: dict[bytes, Patches] = {}
        for key, picture in {picture.key: picture for picture in pictures}.items():
            if key in self._by_key:
                self._by_key.move_to_end(key)
                continue
            parts = self._decoded.get(key) or self.decoder(picture)
            waiting[key] = [part.name for part in parts]
            for part in parts:
                if part.name in self._by_pixels:
                    self._by_pixels.move_to_end(part.name)
                else:
                    missing[part.name] = part
        for batch in self._batches(list(missing.values())):
            features = self._run(batch)
            # A batch's features are views of one tensor: copied, or an evicted one would keep the others in memory.
            self._by_pixels.update({part.name: f.clone() for part, f in zip(batch, features, strict=True)})
        for key, names in waiting.items():
            found = [self._by_pixels[name] for name in names]
            self._by_key[key] = found[0] if len(found) == 1 else torch.cat(found)

    def _batches(self, missing: list[Patches]) -> Iterator[list[Patches]]:
        """The pictures of each forward, in order."""
        if self.decoder.cellwise:
            yield from (missing[start : start + CELLS] for start in range(0, len(missing), CELLS))
            return
        batch: list[Patches] = []
        for part in missing:
            if batch and sum(len(one.values) for one in (*batch, part)) > self.batch_patches:
                yield batch
                batch = []
            batch.append(part)
        if batch:
            yield batch

    def _run(self, batch: list[Patches]) -> Sequence[torch.Tensor]:
        """Features [n_i, W] of one forward."""
        weight = next(self.visual.parameters())
        to_gpu = weight.device.type == "cuda"
        values = [part.values.to(weight.device, non_blocking=to_gpu).to(weight.dtype) for part in batch]
        grids = [part.grid for part in batch]
        blanks = CELLS - len(batch) if self.decoder.cellwise else 0
        values += [torch.zeros_like(values[0])] * blanks
        grids += [grids[0]] * blanks
        features = self.family.visual_features(
            self.visual, torch.cat(values), torch.tensor(grids, device=weight.device)
        )
        per_token = sum(map(len, values)) // len(features)
        return features.split([len(part) // per_token for part in values])[: len(batch)]
