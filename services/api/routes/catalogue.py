"""/v1/models, /v1/presets: what can be chosen."""

from fastapi import APIRouter

from reflux.views import ModelList, PresetList
from services.api import catalogue
from services.api.auth import Viewer

router = APIRouter(prefix="/v1", tags=["catalogue"])


@router.get("/models")
def models(_: Viewer) -> ModelList:
    """Students that are known to fit, with the memory that each preset needs. Others can be named in a spec as well."""
    return ModelList(data=catalogue.models())


@router.get("/presets")
def presets(_: Viewer) -> PresetList:
    return PresetList(data=catalogue.PRESETS)
