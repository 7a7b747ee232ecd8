"""The latent modes: what a latent position is fed, and which ids are left out of a continuation.

This is the only list of modes. The server plugin, the branches, the evaluation, the report, the recipes and the command
line derive theirs from it. To add a mode, add a member here; if its `wire_mode` is new too, say in
`latent_replacement` what it feeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeTraits:
    """What tells one latent mode from another.

    Attributes:
        label: one or two words, for the axis of a chart.
        description: what happens to the latents, in a short clause that follows the label.
        participle: completes the sentence "With the latents …, accuracy is …".
        wire: value of `latent_mode` in a request; None means the mode's own name.
        replaces_latents: another vector takes the place of each latent, so the checkpoint must have a feedback rule.
        needs_own_latents: a continuation must send the latents that its parent was fed.
        needs_foreign_latents: another completion's latents must be known.
        salted_by_seed: what is fed depends on the request's seed.
        salted_by_latents: what is fed depends on the latents that the request carries.
        drops_pads: the pads of every span are left out of the ids.
        drops_markers: the two markers of every span are left out as well.
        continues: completions can be continued in this mode.
        evaluates: `covt eval` accepts this mode.
    """

    label: str
    description: str
    participle: str
    wire: str | None = None
    replaces_latents: bool = False
    needs_own_latents: bool = False
    needs_foreign_latents: bool = False
    salted_by_seed: bool = False
    salted_by_latents: bool = False
    drops_pads: bool = False
    drops_markers: bool = False
    continues: bool = True
    evaluates: bool = True


class LatentMode(StrEnum):
    """One latent mode. Members are strings, equal to the names in requests, files, recipes and on the command line."""

    traits: ModeTraits

    def __new__(cls, value: str, traits: ModeTraits) -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.traits = traits
        return member

    KEEP = (
        "keep",
        ModeTraits(label="Kept", description="as the model made them", participle="kept", needs_own_latents=True),
    )
    ZEROS = (
        "zeros",
        ModeTraits(label="Zeros", description="every latent is zero", participle="zeroed", replaces_latents=True),
    )
    NOISE = (
        "noise",
        ModeTraits(
            label="Noise",
            description="random, same norm",
            participle="replaced by noise",
            replaces_latents=True,
            needs_own_latents=True,
            salted_by_seed=True,
            salted_by_latents=True,
        ),
    )
    SHUFFLE = (
        "shuffle",
        ModeTraits(
            label="Shuffled",
            description="latents of another row",
            participle="swapped with another row's",
            wire="given",
            replaces_latents=True,
            needs_foreign_latents=True,
        ),
    )
    GIVEN = (
        "given",
        ModeTraits(
            label="Given",
            description="latents that the request carries",
            participle="given by the request",
            replaces_latents=True,
            salted_by_latents=True,
            continues=False,
            evaluates=False,
        ),
    )
    DROP_LATENTS = (
        "drop_latents",
        ModeTraits(
            label="Dropped", description="only the markers stay", participle="dropped", wire="keep", drops_pads=True
        ),
    )
    DROP_SPAN = (
        "drop_span",
        ModeTraits(
            label="Segment dropped",
            description="markers and latents removed",
            participle="dropped with their markers",
            wire="keep",
            drops_pads=True,
            drops_markers=True,
        ),
    )
    NONE = (
        "none",
        ModeTraits(
            label="Pad embedding",
            description="every pad is fed its own token embedding",
            participle="replaced by the pad's embedding",
            continues=False,
        ),
    )

    @property
    def label(self) -> str:
        """One or two words for people."""
        return self.traits.label

    @property
    def description(self) -> str:
        """What happens to the latents, as a short clause."""
        return self.traits.description

    @property
    def participle(self) -> str:
        """Completes the sentence "With the latents …, accuracy is …"."""
        return self.traits.participle

    @property
    def wire_mode(self) -> LatentMode:
        """The mode that a request of this mode carries in `latent_mode`."""
        return self if self.traits.wire is None else LatentMode(self.traits.wire)

    @property
    def on_wire(self) -> bool:
        """Whether a request may carry this mode itself."""
        return self.wire_mode is self

    @property
    def edits_ids(self) -> bool:
        """Whether the mode leaves tokens out and feeds nothing else, so that it needs no latents."""
        return self.traits.drops_pads

    @property
    def dropped_markers(self) -> int:
        """Markers of each span that the mode leaves out, 0 or 2; the pads are left out by every mode that edits ids."""
        return 2 if self.traits.drops_markers else 0

    @property
    def replaces_latents(self) -> bool:
        """Whether other vectors take the latents' places, which a checkpoint without a feedback rule can't do."""
        return self.traits.replaces_latents

    @property
    def needs_own_latents(self) -> bool:
        """Whether a continuation must send the latents that its parent was fed."""
        return self.traits.needs_own_latents

    @property
    def needs_foreign_latents(self) -> bool:
        """Whether a continuation must send another completion's latents."""
        return self.traits.needs_foreign_latents

    @property
    def salted(self) -> bool:
        """Whether a request must have a prefix cache of its own: the same ids don't lead to the same states."""
        return self.wire_mode is not LatentMode.KEEP

    @property
    def ablates(self) -> bool:
        """Whether a continuation in this mode tells what the latents were worth."""
        return self.traits.continues and self is not LatentMode.KEEP


WIRE_MODES = tuple(mode for mode in LatentMode if mode.on_wire)
"""What a request's `latent_mode` may be."""
CONTINUATION_MODES = tuple(mode for mode in LatentMode if mode.traits.continues)
"""How a completion can be continued from the end of a span."""
ABLATION_MODES = tuple(mode for mode in LatentMode if mode.ablates)
"""What the necessity reward's continuations may do to the latents."""
EVALUATION_MODES = tuple(mode for mode in LatentMode if mode.traits.evaluates)
"""What `covt eval --modes` accepts."""
