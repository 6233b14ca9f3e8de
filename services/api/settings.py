"""Settings of the API and the control process, from the environment (REFLUX_…) or from files in /run/secrets."""

from datetime import timedelta
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

SECRETS = Path("/run/secrets")


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="REFLUX_", secrets_dir=SECRETS if SECRETS.is_dir() else None, extra="ignore")

    database_url: SecretStr = SecretStr("postgresql+psycopg://postgres@127.0.0.1:5432/reflux")
    broker_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    artifacts_url: str = "file:///var/lib/reflux/artifacts"
    api_url: str = Field("http://127.0.0.1:8400", description="Where control asks whether workers can be heard")
    public_url: str | None = Field(None, description="Where people reach the dashboard, where that is not the API's own address")
    operator_key: SecretStr | None = Field(None, description="Made valid at start, if there is no such key yet")
    worker_key: SecretStr | None = None
    viewer_key: SecretStr | None = Field(None, description="Such as Prometheus has")
    webhook_url: str | None = Field(None, description="Status changes of runs are posted there by control")
    webhook_secret: SecretStr | None = Field(None, description="What those posts are signed with")
    mlflow_tracking_uri: str | None = Field(None, validation_alias="MLFLOW_TRACKING_URI", description="Control tells it of runs")
    mlflow_experiment_name: str = Field("reflux", validation_alias="MLFLOW_EXPERIMENT_NAME")
    mlflow_tracking_token: SecretStr | None = Field(None, validation_alias="MLFLOW_TRACKING_TOKEN")
    mlflow_tracking_username: str | None = Field(None, validation_alias="MLFLOW_TRACKING_USERNAME")
    mlflow_tracking_password: SecretStr | None = Field(None, validation_alias="MLFLOW_TRACKING_PASSWORD")
    keep_artifacts_days: float | None = Field(None, ge=0, description="Since a run's end: then what only it needed goes")
    keep_artifacts_gb: float | None = Field(None, ge=0, description="Of all runs: above it, that of the oldest goes")
    keep_results_days: float | None = Field(None, ge=0, description="Exported models and reports")
    keep_logs_days: float | None = Field(None, ge=0)
    keep_metrics_days: float | None = Field(None, ge=0)
    prices: Path | None = Field(None, description="A price table of your own, as YAML; see reflux/prices.py")
    max_active_runs: int = 4
    lease: timedelta = timedelta(seconds=45)
    beat: timedelta = timedelta(seconds=5)
    grace: timedelta = timedelta(seconds=20)
    ring_again: timedelta = timedelta(seconds=10)
    max_body_bytes: int = 2_000_000
    max_dataset_bytes: int = 200_000_000
    calls_per_minute: int = Field(3000, ge=0, description="Of one viewer or operator key, to one API process; 0: no limit")
    sign_artifacts: bool = Field(False, description="Redirect to the object store, whose address users must be able to reach")

    @model_validator(mode="after")
    def _webhook_is_signed(self) -> Self:
        if self.webhook_url and not self.webhook_secret:
            raise ValueError("REFLUX_WEBHOOK_URL needs REFLUX_WEBHOOK_SECRET")
        return self
