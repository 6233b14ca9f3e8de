from reflux import worker
from services.teacher_worker.tasks import HANDLERS, capabilities

if __name__ == "__main__":
    worker.main("teacher_worker", HANDLERS, capabilities, concurrency=4)
