"""Jobs for the tests of SageMaker: what they are asked for with, what their containers do, and how a test waits for them."""

import sys
from typing import Any

from reflux.machines import Machine
from reflux.spec import Compute, RunSpec
from services.teacher_worker.cloud import sagemaker
from tests.integration.by_hand import eventually
from tests.s3 import BUCKET
from tests.sagemaker_service import ROLE, Service
from tests.teacher_tasks import spec

STORE = f"s3://{BUCKET}"
ENV = {"REFLUX_ARTIFACTS_URL": STORE, "REFLUX_WORKER_KEY": "rfx_of-this-run"}
FAILS = "import os; open(os.environ['REFLUX_SAGEMAKER_ROOT'] + '/output/failure', 'w').write('no key'); 1 / 0"
SLEEPS, STUBBORN, WORKS, BREAKS = (
    [sys.executable, "-c", code]
    for code in (
        "import time; time.sleep(60)",
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)",
        "import os; open(os.environ['REFLUX_SAGEMAKER_ROOT'] + '/model/weights', 'w').write('w')",
        FAILS,
    )
)


def order(machine: Machine, a_spec: RunSpec | None = None, **compute: Any) -> dict[str, Any]:
    fields = {"kind": "sagemaker", "instance_type": "ml.g5.2xlarge", "role_arn": ROLE} | compute
    return sagemaker.request(machine, Compute.model_validate(fields), a_spec or spec(), ENV, "registry/reflux-gpu:1")


def make(machine: Machine, **compute: Any) -> str:
    return sagemaker.make(machine, order(machine, **compute))


def until(provider: Service, machine: Machine, state: str) -> None:
    eventually(lambda: provider.jobs[machine.token].secondary == state, 15, f"the job is not {state}")
