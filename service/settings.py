"""Settings of the service: read from the environment once, validated, frozen, passed in."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from record.keep import KeepConfig, Policy
from record.result import JsonObject
from record.urls import secrets_of, without_password


class Settings(BaseSettings):
    """Everything the service can be told, as `MASKLINE_<NAME>` in the environment."""

    model_config = SettingsConfigDict(env_prefix="MASKLINE_", frozen=True, extra="ignore")

    models_dir: Path = Field(Path("models"), description="A model folder, or a folder of them.")
    default_model: str | None = Field(
        None, description="Model for requests that name none; needed only with several models."
    )
    watch_models_s: float = Field(
        0, ge=0, description="Look for new versions this often and take them over; 0: on request."
    )
    max_models_mb: float = Field(
        float("inf"), gt=0, description="Most memory of loaded models; the longest unused go."
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    auth: Literal["keys", "off"] = Field("keys", description="off: whoever reaches the port.")
    allowed_hosts: str = Field(
        "", description="Names this service goes by without keys, beside its address; by commas."
    )
    keys_file: Path = Field(Path("keys.json"), description="Made by 'maskline key add'.")
    record: Literal["on", "off"] = Field("on", description="Whether results are stored.")
    record_dir: Path = Field(Path("results"), description="Journal of results, and SQLite's file.")
    database_url: str | None = Field(
        None, description="postgresql+psycopg://…; SQLite in the record's folder without one."
    )
    record_days: float = Field(
        float("inf"), gt=0, description="Results older than this go, but those with feedback."
    )
    datasets_dir: Path | None = Field(
        None, description="Good parts to train on; 'datasets' in the record's folder without one."
    )
    datasets_mb: float = Field(20_000, gt=0, description="Most megabytes of all of them.")
    train_folders: str = Field(
        "", description="Folders of images that a training may read as well; by commas."
    )
    jobs_dir: Path | None = Field(
        None, description="Trainings and their logs; 'jobs' in the record's folder without one."
    )
    keep: Policy = Field("sampled", description="Images kept: sampled is those not OK and a share.")
    keep_share: float = Field(0.1, ge=0, le=1, description="Share of OK parts that sampled keeps.")
    keep_days: float = Field(30, gt=0, description="Kept images older than this go.")
    keep_mb: float = Field(2000, gt=0, description="Most megabytes of kept images.")
    keep_url: str | None = Field(
        None, description="Where images are kept: fsspec's; the record's folder without one."
    )
    review_results: int = Field(
        1000, ge=0, le=5000, description="Latest results that a new calibration is compared on."
    )
    drift_parts_per_alarm: float = Field(
        100_000, ge=100, description="Parts between false drift alarms of a camera, on average."
    )
    metrics_open: bool = Field(True, description="Whether /metrics needs no key.")
    parallel_batches: int | None = Field(
        None, ge=1, le=64, description="Batches computed at once on a CPU. Default: 2."
    )
    torch_threads: int | None = Field(
        None, ge=1, description="Threads of one batch. Default: its share of the cores."
    )
    precision: Literal["auto", "fp32"] = Field(
        "auto",
        description="auto: the autoencoder in bfloat16 on a GPU and on CPUs with units for it.",
    )
    decode_threads: int | None = Field(
        None, ge=1, le=64, description="Default: half the cores, 2 to 16."
    )
    max_batch_items: int | None = Field(
        None,
        ge=1,
        le=65536,
        description="Images × windows × masks in one batch. Default: 64 on a GPU, 16 on a CPU.",
    )
    max_queue_delay_ms: float = Field(0.0, ge=0, le=1000)
    max_queue_size: int = Field(64, ge=1)
    max_queue_wait_ms: float = Field(
        float("inf"), gt=0, description="Whose turn would come later is refused at once."
    )
    max_wait_ms: float = Field(30_000, gt=0, description="Longest a request may take, once read.")
    read_timeout_s: float = Field(15, gt=0, description="Longest a head or a body may take.")
    keep_alive_s: int = Field(120, ge=1, description="Longest that a connection may idle.")
    stall_after_s: float = Field(60, gt=0, description="A batch that runs longer fails readiness.")
    drain_delay_s: float = Field(1, ge=0, description="From failing readiness to not listening.")
    drain_limit_s: float = Field(30, ge=0, description="Longest that requests are finished for.")
    max_in_flight: int = Field(128, ge=1, description="Requests at the door, bodies included.")
    max_body_bytes: int = Field(32 * 1024 * 1024, ge=1024)
    max_bulk_bytes: int = Field(128 * 1024 * 1024, ge=1024, description="A batch's body.")
    max_bulk_images: int = Field(64, ge=1, le=1000, description="Images in one batch request.")
    max_event_streams: int = Field(
        32, ge=1, le=256, description="Streams of events that may be open at once."
    )
    max_in_flight_mb: float = Field(
        1024, gt=0, description="Megabytes of all bodies and decoded images; half for batches."
    )
    decode_timeout_s: float = Field(
        20, gt=0, description="Longest that an image is decoded or drawn for."
    )
    max_image_pixels: int = Field(100_000_000, ge=1024)
    tls_cert_file: Path | None = Field(
        None, description="Certificate (PEM): HTTPS, without a proxy."
    )
    tls_key_file: Path | None = Field(None, description="Its key, where not in the same file.")
    tracing: bool = Field(False, description="OpenTelemetry spans; needs the extra 'tracing'.")
    log_format: Literal["json", "text"] = Field("json", description="json: one object a line.")
    log_level: Literal["critical", "error", "warning", "info", "debug"] = "info"

    def echo(self) -> JsonObject:
        """Return all values as they may be logged: URLs without their secrets."""
        values = self.model_dump(mode="json")
        return {k: without_password(v) if isinstance(v, str) else v for k, v in values.items()}

    @property
    def secrets(self) -> list[str]:
        """What of these settings must not be shown anywhere."""
        urls = filter(None, (self.database_url, self.keep_url))
        return [secret for url in urls for secret in secrets_of(url)]

    @property
    def host_names(self) -> set[str]:
        """Names by which the service may be asked where authentication is off."""
        names = {self.host.lower(), *self.allowed_hosts.lower().split(",")}
        return {name.strip() for name in names if name.strip()}

    @property
    def dataset_root(self) -> Path:
        """Where good parts to train on lie."""
        return (self.datasets_dir or self.record_dir / "datasets").absolute()

    @property
    def job_root(self) -> Path:
        """Where trainings work and leave their logs."""
        return (self.jobs_dir or self.record_dir / "jobs").absolute()

    @property
    def train_roots(self) -> tuple[Path, ...]:
        """Folders that a training may read, beside the sets of good parts."""
        names = (name.strip() for name in self.train_folders.split(","))
        return tuple(Path(name).absolute() for name in names if name)

    @property
    def keeping(self) -> KeepConfig:
        """Which images are kept."""
        return KeepConfig(self.keep, self.keep_share, self.keep_days, self.keep_mb)
