"""What `rl_step` compares: a checkpoint with known completions, our training, and TRL's in a process of its own."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from rollout_work import QUICKSTART, Size, picture

PROMPTS, SAMPLES, TOKENS, AFTER_SPAN, STEPS = 8, 8, 256, 64, 4
REWARD = """
from covt_rewards import RewardResult

def alternate(group):
    return [RewardResult(float(number % 2)) for number, _ in enumerate(group.rollouts)]
"""


def build_chain(folder: Path, rows: Sequence[Any], *, latents: bool, size: Size = QUICKSTART) -> Path:
    """A tiny checkpoint that answers everything with one chain of `TOKENS` tokens: its layers add nothing to the token
    they see, and its output matrix maps each token to the next. It costs what any model of its shape costs.

    latents: with one latent span, `AFTER_SPAN` tokens before the end.
    """
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    from covt_model.checkpoints.tiny_checkpoint import build_tiny
    from covt_model.encoding.encode import Encoder
    from covt_model.encoding.row_images import decode
    from covt_model.latent_config import LatentConfig

    images = [decode(image.bytes) for row in rows[:8] for image in row.images]
    build_tiny(folder, [row.question for row in rows], images, latent_size=8, vocab_size=1024, **asdict(size))
    latent, encoder = LatentConfig.read(folder), Encoder(folder)
    model: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    first = int(encoder.encode_prompt(rows[0]).ids[-1])
    special = {first, encoder.eos_id, encoder.pad_id, latent.start_id, latent.pad_id, latent.end_id}
    words = [number for number in range(latent.start_id) if number not in special and number not in _added(encoder)]
    if latents:
        before = TOKENS - AFTER_SPAN - latent.size - 2
        heads = [[*words[:before], latent.start_id], [latent.end_id, *words[before : before + AFTER_SPAN - 1]]]
    else:
        heads = [words[: TOKENS - 1]]
    chain = [first, *heads[0]]
    tail = heads[1] if latents else []
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embedding = model.get_input_embeddings().weight
        output = torch.zeros_like(embedding)
        for part in (chain, tail):
            for now, following in pairwise(part):
                output[following] = 4 * embedding[now] / embedding[now].norm()
        last = (tail or chain)[-1]
        output[encoder.eos_id] = 4 * embedding[last] / embedding[last].norm()
        model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(output)
    model.save_pretrained(folder)
    latent.write(folder)
    return folder


def _added(encoder: Any) -> set[int]:
    return set(encoder.tokenizer.added_tokens_decoder)


@dataclass(frozen=True)
class Seconds:
    """Medians over the steps of a training, the first left out."""

    step: float
    update: float
    collect: float


class Ours:
    """Our trainer on two ranks with a server that both kinds of training share."""

    def __init__(self, folder: Path, checkpoint: Path, data: Path, url: str, workers: Any) -> None:
        self.folder, self.checkpoint, self.data, self.url, self.workers = folder, checkpoint, data, url, workers
        self.reward = folder / "reward.py"
        self.reward.write_text(REWARD)
        self._number = 0

    def train(self, *, share: float, ahead: int = 0) -> Seconds:
        """One training of `STEPS` steps; share: of the rollouts that get counterfactual continuations."""
        from covt_rl.rl_recipe import RlConfig
        from covt_rl.training.train import plan, train
        from covt_runtime.metrics.progress import Progress

        self._number += 1
        values = {
            "run": {"out": str(self.folder), "name": f"ours-{self._number}"},
            "model": {"path": str(self.checkpoint)},
            "data": {"path": str(self.data), "split": "prompts", "micro_batch": PROMPTS * SAMPLES // 2},
            "optim": {"lr": 1e-6, "schedule": "constant", "warmup_steps": 0},
            "zero": {"dtype": "fp32", "gather": "step"},
            "rollout": {
                "prompts": PROMPTS,
                "samples": SAMPLES,
                "max_tokens": TOKENS,
                "base_url": self.url,
                "ahead": ahead,
            },
            "rewards": {"use": f"{self.reward}:alternate,accuracy,necessity", "share": share},
            "algorithm": {"steps": STEPS, "gap_limit": 10.0},
            "log": {"wandb": "disabled", "every": 1},
        }
        config = RlConfig.model_validate(values)
        result = train(config, plan(config), progress=Progress(quiet=True), workers=self.workers)
        lines = [json.loads(line) for line in (Path(result["run"]) / "metrics.jsonl").read_text().splitlines()][1:]
        assert all(line["completions/mean_length"] == TOKENS for line in lines), "the chain broke"
        names = ("time/step", "time/update", "time/collect")
        return Seconds(*(statistics.median(line[name] for line in lines) for name in names))


def prepare_prompts(folder: Path, cells: int | None) -> Path:
    """Prompts with a picture each: the quickstart's of 16 visual tokens, or with other pictures of `cells`²."""
    from covt_data.ingest.prepare import prepare

    if cells is None:
        prepare("trace", folder / "trace", options={"n_train": 1, "n_prompts": PROMPTS * STEPS, "n_test": 1})
        return folder / "trace"
    rows = folder / "rows"
    rows.mkdir()
    for number in range(PROMPTS * STEPS):
        (rows / f"{number}.png").write_bytes(picture(number, cells))
    lines = [
        {"id": str(number), "question": "<image>Which cell do you reach?", "images": [f"{number}.png"], "answer": "B3"}
        for number in range(PROMPTS * STEPS)
    ]
    (rows / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = {"path": str(rows / "prompts.jsonl"), "split": "prompts", "grader": "text"}
    prepare("jsonl", folder / "prompts", options=options)
    return folder / "prompts"


@contextmanager
def ours(latents: bool, *, cells: int | None = None, size: Size = QUICKSTART) -> Iterator[Ours]:
    """A server and two ranks for a chain with or without latents; everything is gone afterwards.

    cells: of a picture's side, see `prepare_prompts`.
    """
    from covt_data.store.prepared_set import PreparedSet
    from covt_rollout.server.server_process import LatentServer
    from covt_runtime.launch.workers import WorkerGroup

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = prepare_prompts(folder, cells)
        rows = list(PreparedSet(data).rows("prompts"))
        checkpoint = build_chain(folder / "chain", rows, latents=latents, size=size)
        with LatentServer.start(checkpoint) as server, WorkerGroup(2, log_dir=folder / "logs") as workers:
            yield Ours(folder, checkpoint, data, server.url, workers)


def trl_seconds(checkpoint: Path, data: Path) -> Seconds:
    """One training by TRL's GRPOTrainer in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, str(checkpoint), str(data)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"TRL's training failed:\n{done.stderr[-3000:]}")
    return Seconds(**json.loads(done.stdout.splitlines()[-1]))


def train_with_trl(checkpoint: Path, data: Path) -> Seconds:
    """In the child: the same model, prompts with their pictures, and rollouts."""
    import io
    import time

    import torch
    from datasets import Dataset
    from PIL import Image
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    from covt_data.store.prepared_set import PreparedSet

    torch.set_num_threads(2)
    rows = list(PreparedSet(data).rows("prompts"))
    dataset = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": row.question.replace("<image>", "")}],
                "image": Image.open(io.BytesIO(row.images[0].bytes)).convert("RGB"),
            }
            for row in rows
        ]
    )
    times: dict[str, list[float]] = {"collect": [], "update": []}

    class Timed(GRPOTrainer):
        def _generate_and_score_completions(self, *args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            result = super()._generate_and_score_completions(*args, **kwargs)
            times["collect"].append(time.perf_counter() - begun)
            return result

    with tempfile.TemporaryDirectory() as out:
        settings = GRPOConfig(
            output_dir=out,
            per_device_train_batch_size=PROMPTS * SAMPLES,
            num_generations=SAMPLES,
            max_completion_length=TOKENS,
            max_steps=STEPS,
            learning_rate=1e-6,
            beta=0.0,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_steps=1,
            dataloader_num_workers=0,
            disable_tqdm=True,
        )
        trainer = Timed(
            model=Qwen2_5_VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32),
            reward_funcs=lambda completions, **_: [float(number % 2) for number in range(len(completions))],
            args=settings,
            train_dataset=dataset,
            processing_class=AutoProcessor.from_pretrained(checkpoint),
        )
        trainer.train()
    lines = [line for line in trainer.state.log_history if "step_time" in line][1:]
    assert all(line["completions/mean_length"] == TOKENS for line in lines), [
        line["completions/mean_length"] for line in lines
    ]
    step = statistics.median(line["step_time"] for line in lines)
    collect = statistics.median(times["collect"][1:])
    return Seconds(step, step - collect, collect)


if __name__ == "__main__":
    print(json.dumps(asdict(train_with_trl(Path(sys.argv[1]), Path(sys.argv[2])))))
