"""Which devices the trainer and the server of a GRPO training get."""

from dataclasses import dataclass

from covt_rl.rl_recipe import RlConfig
from covt_runtime.launch.workers import CPU_RANKS
from covt_runtime.process_environment import launched_from_outside, place_in_group, ranks_here, visible_gpus


@dataclass(frozen=True)
class Placement:
    """Which devices do what.

    Attributes:
        ranks: training processes, on all machines.
        trainer, server: GPU numbers of this machine; empty on a CPU, and for a server that runs elsewhere.
        replicas: servers with a copy of the model each.
        in_turn: the server sleeps while the trainer computes (`server.sleep`).
        here: how many of the ranks another launcher started on this machine; None where none did.
        first: rank 0 is on this machine, and with it the server that `covt rl` starts.
    """

    ranks: int
    trainer: tuple[int, ...]
    server: tuple[int, ...]
    replicas: int
    in_turn: bool = False
    here: int | None = None
    first: bool = True

    @classmethod
    def of(cls, config: RlConfig, gpus: int | None = None) -> "Placement":
        """Place a training's processes: the first GPUs are the server's, the others the trainer's.

        Args:
            config: the recipe.
            gpus: GPUs of this machine; counted by default.
        """
        found = visible_gpus() if gpus is None else gpus
        outside = launched_from_outside()
        here, first = ranks_here() if outside else (None, True)
        own = min(config.server.gpus, found) if first and not config.rollout.base_url else 0
        rest = tuple(range(own, found))
        ranks = place_in_group()[2] if outside else config.run.ranks or len(rest) or CPU_RANKS
        trainer = rest[: here or ranks]
        shared = len(trainer) if config.server.sleep and not config.rollout.base_url else own
        replicas = max(1, shared // config.server.tensor_parallel)
        return cls(ranks, trainer, tuple(range(own)), replicas, config.server.sleep, here, first)

    def __str__(self) -> str:
        ranks = f"{self.ranks} trainer ranks"
        if self.trainer and len(self.trainer) < self.ranks:
            ranks += f", {len(self.trainer)} of them on this machine,"
        if self.in_turn and self.trainer:
            servers = f"{self.replicas} servers" if self.replicas > 1 else "the server"
            return f"{ranks} and {servers} on GPUs {self.trainer} in turn"
        if not self.trainer:
            unable = ", which has no sleep mode: server.sleep needs a GPU" if self.in_turn else ""
            return f"{ranks} and the server on the CPU{unable}"
        shared = "the server elsewhere or beside rank 0" if not self.server else f"the server on GPUs {self.server}"
        return f"{ranks} on GPUs {self.trainer}, {shared}"
