"""What a run trains on top of the base model: LoRA adapters, or (method full) all of its weights.

Each context manager leaves the student exactly as it was: nothing is ever subtracted from a weight, the weight that was there
is put back.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Params4bit
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM

from reflux.spec import RunSpec
from services.gpu_trainer.models import Student

# What a student of text and images sees with. No row shows it anything, so it stays as it is.
EYES = r"(.*\.)?(vision_tower|vision_model|multi_modal_projector|audio_tower)(\..*)?"


@contextmanager
def trainable(student: Student, spec: RunSpec, start: Path | None) -> Iterator[Any]:
    """The model with parameters to train: those in the folder `start`, or new ones (drawn from torch's seed)."""
    with _without_traces(student.model):
        if spec.student.method == "full":
            with _all_weights(student, start) as model:
                yield model
        else:
            with _prepared(student):
                model = _with_adapter(student, spec, start)
                try:
                    yield model
                finally:
                    _take_off(student, model)


@contextmanager
def answering(student: Student, folder: Path | None) -> Iterator[Any]:
    """The model as the adapter in `folder` makes it, or the base. An adapter is merged, where the base is not quantized."""
    if folder is None:
        yield student.model
    elif not (folder / "adapter_config.json").is_file():
        with _put_back(student.model.parameters()):
            _copy_weights(folder, student.model)
            yield student.model
    elif student.quantized:
        model = PeftModel.from_pretrained(student.model, folder, low_cpu_mem_usage=True).eval()
        try:
            yield model
        finally:
            _take_off(student, model)
    else:
        with _put_back(student.model.parameters()):
            _merge(student, folder)
            yield student.model


def save(student: Student, model: Any, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Write adapter (or all weights) as safetensors, and the tokenizer. `weights`: where the model has parts of them only."""
    if isinstance(model, PeftModel):
        # The base by the name that the user gave, not by the folder where this worker has it.
        config = model.peft_config["default"]
        config.base_model_name_or_path, config.revision = student.name, student.revision
        # The embeddings are never trained; left to itself, PEFT would ask the hub whether they had grown.
        model.save_pretrained(folder, save_embedding_layers=False, state_dict=weights)
    else:
        model.save_pretrained(folder, state_dict=weights)
    (folder / "README.md").unlink(missing_ok=True)
    student.tokenizer.save_pretrained(folder)


def _with_adapter(student: Student, spec: RunSpec, start: Path | None) -> Any:
    if start is not None:
        model = PeftModel.from_pretrained(student.model, start, is_trainable=True)
        # Else each checkpoint asks the hub for the base by the user's name for it.
        model.peft_config["default"].base_model_name_or_path = str(student.folder)
        return model
    sees = any(re.fullmatch(EYES, name) for name, _ in student.model.named_modules())
    lora = LoraConfig(
        r=spec.lora.r,
        lora_alpha=spec.lora.alpha,
        lora_dropout=spec.lora.dropout,
        target_modules="all-linear",
        exclude_modules=EYES if sees else None,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(student.model, lora)


@contextmanager
def _prepared(student: Student) -> Iterator[None]:
    """For training on NF4: what is not quantized (norms, embeddings) in fp32. Answers are written with it as it was."""
    if not student.quantized:
        yield
        return
    with _put_back(p for p in student.model.parameters() if not isinstance(p, Params4bit)):
        prepare_model_for_kbit_training(student.model, use_gradient_checkpointing=False)  # the trainer turns that on
        yield


def _merge(student: Student, folder: Path) -> None:
    model = PeftModel.from_pretrained(student.model, folder, low_cpu_mem_usage=True)
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    with torch.no_grad():
        for layer in layers:
            weight = layer.get_base_layer().weight
            weight.data = weight.data + layer.get_delta_weight("default").to(weight.dtype)
    _take_off(student, model)


def _take_off(student: Student, model: Any) -> None:
    student.model = model.unload()
    student.model.requires_grad_(False).eval()


@contextmanager
def _without_traces(model: Any) -> Iterator[None]:
    """Take off what a trainer puts on the base: gradient checkpointing, with which generation is silently wrong, and the
    forward that TRL computes its loss with."""
    try:
        yield
    finally:
        vars(model).pop("forward", None)
        model.activation_checkpointing_disable()
        # TRL and transformers each hang a hook on it, and forget the first.
        model.get_input_embeddings()._forward_hooks.clear()


@contextmanager
def _put_back(parameters: Iterable[torch.nn.Parameter]) -> Iterator[None]:
    """Remember the tensors behind the parameters, and put them back. On a GPU the originals wait in the host's memory."""
    originals = [(parameter, parameter.data.cpu(), parameter.device) for parameter in parameters]
    try:
        yield
    finally:
        for parameter, data, device in originals:
            parameter.data = data.to(device)


@contextmanager
def _all_weights(student: Student, start: Path | None) -> Iterator[Any]:
    model = student.model
    with _put_back(model.parameters()):
        if start is not None:
            _copy_weights(start, model)
        for name, parameter in model.named_parameters():
            parameter.data = parameter.data.to(torch.float32, copy=True)
            parameter.requires_grad_(not re.fullmatch(EYES, name))
        try:
            yield model
        finally:
            model.requires_grad_(False).eval()


def _copy_weights(folder: Path, model: Any) -> None:
    trained = dict(AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, trust_remote_code=False).named_parameters())
    for name, parameter in model.named_parameters():
        parameter.data = trained[name].data.to(parameter.device, parameter.dtype)
