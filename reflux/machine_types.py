"""About what a machine costs, USD an hour, on demand in us-east-1 at the end of 2025; and its GPU. Unknown types stay unknown."""

USD_PER_HOUR = {
    "t3.micro": 0.0104,
    "m5.large": 0.096,
    "g4dn.xlarge": 0.526,
    "g4dn.2xlarge": 0.752,
    "g4dn.12xlarge": 3.912,
    "g5.xlarge": 1.006,
    "g5.2xlarge": 1.212,
    "g5.4xlarge": 1.624,
    "g5.12xlarge": 5.672,
    "g5.48xlarge": 16.288,
    "g6.xlarge": 0.805,
    "g6.2xlarge": 0.978,
    "g6e.xlarge": 1.861,
    "g6e.2xlarge": 2.242,
    "p4d.24xlarge": 21.958,
    "p5.48xlarge": 55.04,
}
GPUS = {"g4dn": "T4", "g5": "A10", "g6": "L4", "g6e": "L40S", "p4d": "A100", "p5": "H100", "p5en": "H200", "p6-b200": "B200"}
SAGEMAKER_SHARE = 1.25  # of the same machine's price on EC2, about
GB_PER_HOUR = 0.08 / 730  # of a gp3 volume


def per_hour(instance_type: str, volume_gb: int = 0) -> float | None:
    """USD; None: this type's price is not known. A spot machine costs less."""
    share = SAGEMAKER_SHARE if instance_type.startswith("ml.") else 1.0
    price = USD_PER_HOUR.get(instance_type.removeprefix("ml."))
    return None if price is None else round(price * share + volume_gb * GB_PER_HOUR, 4)


def gpu(instance_type: str) -> str | None:
    """As `reflux/gpu_hours.py` names it."""
    return GPUS.get(instance_type.removeprefix("ml.").split(".")[0])
