"""Settings of the studies."""

from __future__ import annotations

from pydantic import Field, field_validator

from drrho_clip.schema import Config


class AdviseConfig(Config):
    """What the advisor looks at, beside the training that is planned."""

    references: str = Field(description="Names of the references' features, separated by commas")
    pilot_fraction: float = Field(0.02, gt=0, le=1, description="Share of the planned samples that the pilot model sees")
    pilot_steps: int = Field(50, ge=1, description="Steps that the pilot takes at least, where that share is less")

    @property
    def names(self) -> list[str]:
        """The references, one by one."""
        return [name.strip() for name in self.references.split(",") if name.strip()]

    @field_validator("references")
    @classmethod
    def _some(cls, value: str) -> str:
        names = [name.strip() for name in value.split(",") if name.strip()]
        if not names or len(set(names)) < len(names):
            raise ValueError("give one or several references, each once")
        return value
