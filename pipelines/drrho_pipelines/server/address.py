"""Where a Kubeflow Pipelines server is, and who asks."""

from __future__ import annotations

from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from drrho_clip.schema import Config

EXPERIMENT = "drrho"


class Address(Config):
    """A server and a way to be known there. Everything may be empty: a pod in the cluster finds server and token by itself."""

    host: str = Field("", description="http://host:port of the API or of the UI; empty = the cluster of this pod or kubeconfig")
    namespace: str = Field("", description="Namespace of the runs, where several users share the server")
    experiment: str = Field(EXPERIMENT, min_length=1, description="The experiment that holds runs and schedules")
    token_file: str = Field("", description="File with a bearer token, read anew for every request")
    token_command: str = Field("", description="Command that prints a bearer token, run again when the server refuses the last")

    @model_validator(mode="after")
    def _check(self) -> Self:
        parts = urlsplit(self.host)
        if parts.username or parts.password:
            raise ValueError("'host' holds a user name or password: give a token by token_file or token_command instead")
        if self.host and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ValueError(f"'{self.host}' is no address of a server: write it as http://host:port")
        if self.token_file and self.token_command:
            raise ValueError("give token_file or token_command, not both")
        return self
