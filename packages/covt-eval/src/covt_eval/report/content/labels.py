"""The names a reader sees for models, latent modes, phases and metrics, and the color each keeps on every chart."""

from covt_model.latents.latent_modes import EVALUATION_MODES

MODELS = {
    "plain": "Plain",
    "pause": "Pause tokens",
    "stage1": "Latents, stage 1",
    "stage2": "Latents, stage 2",
    "sft_more": "Stage 2, longer",
    "rl": "Latents + RL",
}
MODEL_NOTES = {
    "plain": "no extra tokens",
    "pause": "same pads, constant input",
    "stage1": "aligned to the helper images",
    "stage2": "feeds back its own hidden states",
    "sft_more": "stage 2 for as long as RL took",
    "rl": "GRPO from stage 2",
}
SHORT = {
    "pause": "pause",
    "stage1": "stage 1",
    "stage2": "stage 2",
    "sft_more": "longer",
    "rl": "RL",
    "latent": "latents",
}
MODES = {mode.value: mode.label for mode in EVALUATION_MODES}
MODE_NOTES = {mode.value: mode.description for mode in EVALUATION_MODES}
RUN_NAMES = {
    "plain": "Supervised, plain",
    "pause": "Supervised, pause tokens",
    "latent": "Supervised, latents",
    "sft_more": "Stage 2 continued",
    "rl": "Reinforcement learning",
}
TASKS = {"trace": "follow the arrows", "vsp": "find a way across the ice"}

# Names of the CSS custom properties (report.css defines --c-<name>); a label outside gets one of the spare colors.
COLORS = {"plain", "pause", "stage1", "stage2", "sft_more", "rl", "latent"}
SPARE = ("a1", "a2", "a3", "a4", "a5", "a6")


def model_name(label: str) -> str:
    return MODELS.get(label, label.replace("_", " "))


def short_name(label: str) -> str:
    return SHORT.get(label, label.replace("_", " "))


def card_name(label: str) -> str:
    """The short name with a capital, for the small fields of a card."""
    name = short_name(label)
    return name[:1].upper() + name[1:]


def color(label: str, index: int = 0) -> str:
    """The color name of a model; labels we don't know take the spare color number `index`."""
    return label if label in COLORS else SPARE[index % len(SPARE)]


def in_order(labels: list[str], known: dict[str, str]) -> list[str]:
    """Known labels in the order of `known`, then the others alphabetically."""
    position = {label: index for index, label in enumerate(known)}
    return sorted(labels, key=lambda label: (position.get(label, len(position)), label))
