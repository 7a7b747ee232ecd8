"""What is refused before a training starts: data that the rewards can't use, and a server of another model."""

from collections.abc import Sequence
from itertools import islice

from covt_data.records.gold_answers import describe_bad_golds
from covt_data.store.prepared_set import PreparedSet
from covt_rewards import ConfiguredReward, GoldError
from covt_rewards.accuracy import AccuracyReward
from covt_rl.rl_errors import RlError
from covt_rl.rl_recipe import RlConfig
from covt_rl.scoring.score_groups import to_group
from covt_rollout import endpoints
from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.client.rollout_requests import PromptRequest, Sampling

GOLDS = 200
"""Gold answers of a set that are read before a run starts; the rest are the business of data preparation."""
PROBE = 64
"""Token ids that server and trainer must read alike."""


def check_golds(prepared: PreparedSet, config: RlConfig, rewards: Sequence[ConfiguredReward]) -> None:
    """Raise RlError for the gold answers, of the run's set or of one mixed in, that its accuracy reward can't read.

    ν is the accuracy's change without the latents, so a run whose rewards leave accuracy out needs them too.
    """
    accuracy = next((one.reward for one in rewards if isinstance(one.reward, AccuracyReward)), AccuracyReward())
    sets = [(prepared, config.data.split, config.data.limit)]
    sets += [(PreparedSet(other.path), other.split, None) for other in config.data.mix]
    problems: list[tuple[str, str]] = []
    for number, (rows, split, limit) in enumerate(sets):
        where = f"{split} of {config.data.mix[number - 1].path}" if number else split
        for row in islice(rows.rows(split, limit), GOLDS):
            try:
                accuracy.check_gold(to_group(row, [], []))
            except GoldError as error:
                problems.append((f"row {row.id} of {where}", error.message))
    if problems:
        raise RlError(
            describe_bad_golds(problems), "prepare the data again, which leaves such rows out, or name their grader"
        )


async def check_server(client: RolloutClient) -> None:
    """Raise RlError unless the servers have the checkpoint's tokenizer and decode a segment as it does: same token
    ids, same K."""
    await _check_tokenizer(client)
    latent = client.latent
    prompt = PromptRequest((latent.start_id,))
    ((answer,),) = await client.generate([prompt], Sampling(max_tokens=latent.size + 1, temperature=0.0))
    expected = (latent.pad_id,) * latent.size + (latent.end_id,)
    if answer.token_ids != expected:
        raise RlError(
            f"the server answers <|latent_start|> (id {latent.start_id}) with {list(answer.token_ids)}; the checkpoint "
            f"has K = {latent.size} pads of id {latent.pad_id} and the end {latent.end_id}",
            "serve the checkpoint that is trained: `covt serve` with the same model.path",
        )


async def _check_tokenizer(client: RolloutClient) -> None:
    """Ids from all over the vocabulary must be the same text to every replica; special tokens are left out."""
    step = max(1, client.latent.start_id // PROBE)
    ids = [token for token in range(0, client.latent.start_id, step) if client.decode([token])]
    own = client.decode(ids)
    texts = await endpoints.detokenize(client.transport, ids, client.attempts)
    for replica, text in zip(client.transport.replicas, texts, strict=True):
        if text != own:
            raise RlError(
                f"the server at {replica.url} has another tokenizer: ids {ids[:3]}… are {text[:40]!r}…, "
                f"the checkpoint's are {own[:40]!r}…",
                "serve the checkpoint that is trained: `covt serve` with the same model.path",
            )
