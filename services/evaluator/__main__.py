from reflux import worker
from services.evaluator.errands import ERRANDS
from services.evaluator.tasks import HANDLERS, capabilities

if __name__ == "__main__":
    worker.main("evaluator", HANDLERS, capabilities, errands=ERRANDS)
