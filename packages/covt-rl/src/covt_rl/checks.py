"""What is refused before a training starts: data the rewards can't use, prompts too long, a server of another model."""

from collections.abc import Iterable, Sequence
from itertools import islice

from covt_data.schema import Row
from covt_data.store import PreparedSet
from covt_model.encode import Encoder
from covt_rewards import ConfiguredReward, GoldError
from covt_rewards.accuracy import AccuracyReward
from covt_rl.client import RolloutClient, Sampling
from covt_rl.config import RlConfig
from covt_rl.errors import RolloutError
from covt_rl.records import PromptRequest
from covt_rl.scoring import to_group

GOLDS = 200
"""Gold answers that are read before a run starts; the rest are the business of data preparation."""


def check_golds(prepared: PreparedSet, config: RlConfig, rewards: Sequence[ConfiguredReward]) -> None:
    """Raise RolloutError for a gold answer that the accuracy reward of the run can't read."""
    accuracy = next((one.reward for one in rewards if isinstance(one.reward, AccuracyReward)), AccuracyReward())
    for row in islice(prepared.rows(config.data.split, config.data.limit), GOLDS):
        try:
            accuracy.check_gold(to_group(row, [], []))
        except GoldError as error:
            raise RolloutError(
                f"row {row.id} of {config.data.split}: {error}",
                "prepare the data again without such rows, or name its grader",
            ) from error


def check_prompts(rows: Sequence[Row], mine: Iterable[int], encoder: Encoder, config: RlConfig) -> None:
    """Raise RolloutError when one of `mine` leaves no room for `rollout.max_tokens` within `data.max_length`."""
    limit, room = config.data.max_length, config.rollout.max_tokens
    lengths = [(len(encoder.encode_prompt(row).expanded), row.id) for row in map(rows.__getitem__, mine)]
    long = [(length, name) for length, name in lengths if length + room > limit]
    if long:
        length, name = max(long)
        raise RolloutError(
            f"{len(long)} of {len(lengths)} prompts are too long: {name} has {length} tokens, with rollout.max_tokens "
            f"= {room} more than data.max_length = {limit}",
            "raise data.max_length, lower rollout.max_tokens or the pictures' max_pixels, or leave these rows out",
        )


async def check_server(client: RolloutClient) -> None:
    """Raise RolloutError unless the server decodes a segment as the checkpoint does: same token ids, same K."""
    latent = client.latent
    prompt = PromptRequest((latent.start_id,))
    ((answer,),) = await client.generate([prompt], Sampling(max_tokens=latent.size + 1, temperature=0.0))
    expected = (latent.pad_id,) * latent.size + (latent.end_id,)
    if answer.token_ids != expected:
        raise RolloutError(
            f"the server answers <|latent_start|> (id {latent.start_id}) with {list(answer.token_ids)}; the checkpoint "
            f"has K = {latent.size} pads of id {latent.pad_id} and the end {latent.end_id}",
            "serve the checkpoint that is trained: `covt serve` with the same model.path",
        )
