"""How machines are made in this deployment: the operator's file, which REFLUX_MACHINES names, under what a spec says."""

import itertools
import os
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reflux.errors import Terminal
from reflux.spec import Compute


class Settings(BaseModel):
    """`ec2`, `sagemaker`: defaults of a spec's section `compute`, by its kind."""

    model_config = ConfigDict(extra="forbid")

    api_url: str = Field(description="Where a machine reaches the API; https outside of one private network")
    artifacts_url: str = Field("", description="The artifact store as a machine sees it; left out: as the teacher workers do")
    worker_image: str = Field(description="The gpu_trainer's image (target gpu of the Dockerfile), where a machine can pull it")
    ec2: dict[str, Any] = Field(default_factory=dict)
    sagemaker: dict[str, Any] = Field(default_factory=dict)


NEEDED = {"ec2": ("instance_type", "image"), "sagemaker": ("instance_type", "role_arn")}  # its image: worker_image


def settings() -> Settings:
    """Terminal says what is wrong with the file, or that there is none."""
    file = os.environ.get("REFLUX_MACHINES")
    if not file:
        hint = "Name a YAML file with api_url, worker_image and the defaults of ec2 and sagemaker: see docs/machines.md."
        raise Terminal("machines_not_set", "REFLUX_MACHINES is not set for the teacher workers", hint)
    return _read(file, Path(file).stat().st_mtime_ns if Path(file).is_file() else 0)


@cache
def _read(file: str, _changed: int) -> Settings:
    try:
        found = Settings.model_validate(yaml.safe_load(Path(file).read_text(encoding="utf-8")))
        for kind in ("ec2", "sagemaker"):
            Compute.model_validate({"kind": kind} | getattr(found, kind))
            if "region" in getattr(found, kind):  # it is on record before this file is read
                raise Terminal("machines_not_set", f"{file}: {kind}.region can't be set there", "A spec names its region.")
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors())
        raise Terminal("machines_not_set", f"{file} can't be used: {wrong}") from error
    except (OSError, yaml.YAMLError) as error:
        raise Terminal("machines_not_set", f"{file} can't be read: {error}") from error
    return found


def settled(compute: Compute) -> Compute:
    """The section with the operator's defaults where the spec leaves something out. Terminal if something is still missing."""
    defaults = getattr(settings(), compute.kind)
    given = compute.model_dump(exclude_defaults=True)
    made = Compute.model_validate(defaults | given | {"tags": defaults.get("tags", {}) | compute.tags})
    missing = [f"compute.{name}" for name in NEEDED[compute.kind] if getattr(made, name) is None]
    if missing:
        hint = "Set them in the spec, or for all in the file that REFLUX_MACHINES names."
        raise Terminal("invalid_spec", f"compute {compute.kind} needs {', '.join(missing)}", hint)
    return made


def placed(compute: Compute, number: int) -> Compute:
    """The section for a run's `number`th machine: elsewhere than the one before it, where the spec names more places."""
    types, subnets = (compute.instance_type, *compute.other_instance_types), (compute.subnet_id, *compute.other_subnet_ids)
    places = list(itertools.product(types, subnets))
    instance_type, subnet_id = places[(number - 1) % len(places)]
    return compute.model_copy(update={"instance_type": instance_type, "subnet_id": subnet_id})
