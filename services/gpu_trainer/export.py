"""The trained adapter as files that others can load: adapter, tokenizer and, if asked, merged weights."""

import tempfile
import time
from pathlib import Path

from reflux.commands import ExportModel
from reflux.events import ModelExported
from reflux.task import Task
from services.gpu_trainer import adapters
from services.gpu_trainer.models import Bench, free_memory


def export_model(task: Task, bench: Bench) -> ModelExported:
    """Carry out an ExportModel command: {folder}/model/adapter/ with the tokenizer, {folder}/model/merged/ if asked."""
    command = task.command
    assert isinstance(command, ExportModel)
    started = time.monotonic()
    merge = task.spec.export.merge and task.spec.student.method != "full"  # `full` has nothing to merge
    target = f"{task.folder}/model"
    for path in task.artifacts.paths(command.adapter_path):
        task.check()
        task.artifacts.copy(path, f"{target}/adapter/{path.removeprefix(command.adapter_path.rstrip('/') + '/')}")
    task.progress(1, 1 + merge, "parts")
    if merge:
        with tempfile.TemporaryDirectory() as temporary:
            _write_merged(task, bench, command, Path(temporary))
            task.artifacts.upload(Path(temporary) / "merged", f"{target}/merged")
        task.progress(2, 2, "parts")
    files = len(task.artifacts.paths(target))
    return ModelExported(key=command.key, seconds=time.monotonic() - started, path=target, files=files, merged=merge)


def _write_merged(task: Task, bench: Bench, command: ExportModel, folder: Path) -> None:
    # Into the unquantized weights: merged into NF4, an adapter would be rounded away.
    student = bench.load(task, quantize=False)
    adapter = task.artifacts.download(command.adapter_path, folder / "adapter")
    with adapters.answering(student, adapter) as model:
        model.save_pretrained(folder / "merged")
        student.tokenizer.save_pretrained(folder / "merged")
    free_memory()
