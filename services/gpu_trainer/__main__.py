"""The GPU worker: `python -m services.gpu_trainer`."""

import sys

from reflux import worker
from reflux.errors import Terminal
from services.gpu_trainer import sagemaker, spot
from services.gpu_trainer.machine import processes
from services.gpu_trainer.surroundings import allowed, hide
from services.gpu_trainer.tasks import ERRANDS, HANDLERS, capabilities

if __name__ == "__main__":
    with sagemaker.telling():
        try:
            processes()
        except Terminal as error:
            sys.exit(f"{error.message} {error.hint}")
        if allowed():
            hide()
        spot.watch()
        worker.main("gpu_trainer", HANDLERS, capabilities, concurrency=1, errands=ERRANDS)
