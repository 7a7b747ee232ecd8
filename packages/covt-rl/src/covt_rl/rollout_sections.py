"""Recipe sections about sampling: `[rollout]`, and `[server]` for the server that `covt rl` starts itself."""

from typing import Literal

from pydantic import Field

from covt_runtime.recipe_schema import Section


class RolloutSection(Section):
    """`[rollout]`: sampling, and the server that does it."""

    prompts: int = Field(default=16, ge=1)
    """Prompts per step."""
    samples: int = Field(default=8, ge=2)
    """Rollouts per prompt: the size of a group."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature. At 1.0 the server samples the policy itself, which the loss assumes by default."""
    max_tokens: int = Field(default=64, ge=1)
    """Greatest length of a completion in tokens, latents included. The default fits the generated tasks."""
    max_spans: int = Field(default=32, ge=0)
    """Most latent spans of a completion, held by the server. A completion that begins another span ends there, as at
    `max_tokens`, so that no single one slows all ranks; 0 sets no limit."""
    base_url: str = ""
    """Address of a running `covt serve`; several replicas are separated by commas. Empty starts a server."""
    api_key_env: str = "COVT_API_KEY"
    """Environment variable that holds the server's API key, for a server that asks for one."""
    concurrency: int = Field(default=64, ge=1)
    """Requests in flight at the same time."""
    timeout: float = Field(default=120.0, gt=0)
    """Seconds of silence after which the server counts as failed. A request may take longer while the server is alive:
    while it answers other requests, or the question whether it is."""
    ahead: int = Field(default=0, ge=0, le=1)
    """1 samples the next step's rollouts while this step trains. They are then one update old, which
    `algorithm.importance` corrects for; 0 samples and trains in turn."""
    transfer: Literal["auto", "files", "http", "nccl"] = "auto"
    """How new weights reach the server: through files that both see, uploaded over HTTP, or over NCCL. `auto` takes
    NCCL where trainer and server each have GPUs of their own, files where the server can read them, and otherwise HTTP.
    A server that you start yourself must run `covt serve` on GPUs for NCCL."""
    weight_folder: str = ""
    """Folder in which new weights wait for the server; it must hold two copies of the model. Empty means shared memory,
    /dev/shm. A server on another machine that sees the folder under the same path reads them there."""
    dynamic: int = Field(default=0, ge=0)
    """Rounds in which groups without spread are replaced by further prompts (DAPO, arXiv 2503.14476); 0 keeps them."""


class ServerSection(Section):
    """`[server]`: the rollout server that `covt rl` starts when `rollout.base_url` is empty."""

    gpus: int = Field(default=0, ge=0)
    """GPUs that only the server uses, the first of the machine; 0 lets it share the trainer's first GPU."""
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs per replica of the server; must divide `server.gpus`."""
    dtype: Literal["auto", "float32", "bfloat16"] | None = None
    """Dtype of the server's weights. Unset means float32 on a CPU and the checkpoint's dtype on GPUs."""
    max_model_len: int | None = Field(default=None, ge=1)
    """Greatest length of prompt and completion in tokens; unset takes the checkpoint's."""
    max_num_seqs: int = Field(default=256, ge=1)
    """Greatest number of sequences that the server decodes together; vLLM's default."""
    memory_share: float = Field(default=0.9, gt=0, le=1)
    """Fraction of each server GPU's memory that the server uses; vLLM's default."""
    sleep: bool = False
    """Trainer and server take turns on the same GPUs: the server gives its memory back while the trainer updates, and
    the trainer gives its own back while the server samples."""
    extra: tuple[str, ...] = ()
    """Further flags of `vllm serve`, passed on unchanged."""
