import os

from reflux import worker
from services.teacher_worker.cloud import sweep
from services.teacher_worker.previews import ERRANDS
from services.teacher_worker.tasks import HANDLERS, capabilities

if __name__ == "__main__":
    sweep.start(os.environ.get("REFLUX_API_URL"))
    worker.main("teacher_worker", HANDLERS, capabilities, concurrency=4, errands=ERRANDS)
