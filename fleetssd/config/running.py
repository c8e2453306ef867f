"""When the daemon works, where it shows itself, and what its hours cost."""

from __future__ import annotations

from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator

from fleetssd.config.section import Section


class Schedule(Section):
    """When the night runs and when the fleet wakes up, in local time of `timezone`."""

    enabled: bool = True
    night: str = "02:00"
    dawn: str = "06:00"
    timezone: str = "UTC"
    tick_seconds: float = Field(default=15.0, gt=0)
    clock_offset_file: Path | None = None

    @field_validator("night", "dawn")
    @classmethod
    def _hour(cls, text: str) -> str:
        hour, _, minute = text.partition(":")
        if not (hour.isdigit() and minute.isdigit() and int(hour) < 24 and int(minute) < 60):
            raise ValueError("write it as HH:MM, for example 02:00")
        return text

    @field_validator("timezone")
    @classmethod
    def _zone(cls, name: str) -> str:
        try:
            if name != "UTC":  # known even where the machine has no zone database
                ZoneInfo(name)
        except (ValueError, OSError, ZoneInfoNotFoundError):
            raise ValueError("no such time zone; write it as Europe/Berlin, or install tzdata") from None
        return name


class Web(Section):
    """The daemon's own HTTP port: webhook, status page, metrics, health."""

    host: str = "127.0.0.1"
    port: int = Field(default=8377, ge=0, le=65535)
    max_body_bytes: int = Field(default=4_000_000, gt=0)


class Prices(Section):
    """What an hour and a kilowatt hour cost you, for the reports; 0 is free, or not to be counted."""

    currency: str = Field(default="EUR", min_length=1, max_length=8)
    machine_hour: float = Field(default=0.0, ge=0)
    gpu_hour: float = Field(default=0.0, ge=0)
    kwh: float = Field(default=0.0, ge=0)
