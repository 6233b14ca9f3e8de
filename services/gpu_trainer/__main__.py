"""The GPU worker: `python -m services.gpu_trainer`."""

from reflux import worker
from services.gpu_trainer.surroundings import allowed, hide
from services.gpu_trainer.tasks import ERRANDS, HANDLERS, capabilities

if __name__ == "__main__":
    if allowed():
        hide()
    worker.main("gpu_trainer", HANDLERS, capabilities, concurrency=1, errands=ERRANDS)
