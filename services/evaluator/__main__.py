from reflux import worker
from services.evaluator.tasks import HANDLERS, capabilities

if __name__ == "__main__":
    worker.main("evaluator", HANDLERS, capabilities)
