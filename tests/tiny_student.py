"""Students that are made in a second: a real Llama of 0.2 million parameters, or a Gemma 3 with eyes, and a real BPE tokenizer.
The weights are random.

python -m tests.tiny_student FOLDER
"""

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

CORPUS = [
    "Answer with one complete, MISRA-minded C function in a ```c block, and nothing else.",
    "```c\nuint8_t clamp_u8(int32_t value)\n{\n    return (value < 0) ? 0U : (uint8_t)value;\n}\n```",
    "```c\nstatic uint32_t gate_open_ns(const gate_entry_t *entry)\n{\n    return entry->interval_ns;\n}\n```",
    "```c\nbool stream_has_bandwidth(const stream_t *stream, uint32_t bits)\n{\n    return bits <= stream->reserved;\n}\n```",
    "#include <stdint.h>\n#include <stdbool.h>\nvolatile uint16_t *const timer = (volatile uint16_t *)0x4000U;\n",
    "Write a C function that returns the VLAN priority (PCP) of a TSN frame, checks its length, and never allocates.",
    "for (uint16_t i = 0U; i < count; i++) { sum += (uint32_t)samples[i]; }\nif (sum > LIMIT) { sum = LIMIT; }\n",
]


def make(folder: Path, *, vocabulary: int = 512, hidden: int = 64, context: int = 1024, chat: bool = True) -> Path:
    """Write model and tokenizer into `folder`, the same bytes each time. Without `chat` there is no chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(vocabulary, context)
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_gemma(folder: Path) -> Path:
    """A Gemma 3 that also takes images, as the one of 4 billion parameters does."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(512, 1024)
    tokenizer.chat_template = CHAT_TEMPLATE
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 1024,
        "sliding_window": 64,
    }
    eyes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config=text,
        vision_config=eyes | {"image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Gemma3ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(vocabulary: int, context: int) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=context,
    )


if __name__ == "__main__":
    make(Path(sys.argv[1]))
