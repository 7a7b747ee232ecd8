"""GRPO with TRL and covt-rewards: two steps of a tiny random model on sums. `pip install covt-rewards trl`."""

import tempfile

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from covt_rewards.adapters.trl import reward_funcs, reward_weights

WORDS = ["<pad>", "<eos>", "<unk>", "+", "=", "is", *(str(number) for number in range(20))]
vocabulary = {word: number for number, word in enumerate(WORDS)}
tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
processor = PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
)
config = Qwen2Config(
    vocab_size=len(WORDS),
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
    pad_token_id=0,
    eos_token_id=1,
)
rows = [{"prompt": f"{a} + {b} =", "answer": str(a + b), "grader": "math"} for a in range(4) for b in range(4)]

functions = reward_funcs("format=0.1,accuracy")  # the only line that covt-rewards needs
with tempfile.TemporaryDirectory() as folder:
    trainer = GRPOTrainer(
        model=Qwen2ForCausalLM(config),
        processing_class=processor,
        reward_funcs=[*functions],
        train_dataset=Dataset.from_list(rows),
        args=GRPOConfig(
            output_dir=folder,
            reward_weights=reward_weights(functions),
            num_generations=4,
            per_device_train_batch_size=8,
            max_completion_length=1,
            max_steps=2,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            bf16=False,
        ),
    )
    trainer.train()
logged = [entry for entry in trainer.state.log_history if "rewards/accuracy/mean" in entry]
print([{name: entry[name] for name in ("rewards/format/mean", "rewards/accuracy/mean", "reward")} for entry in logged])
