"""Bearer tokens that outlive their first hour: read from a file or printed by a command, again and again."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfp.client import KF_PIPELINES_SA_TOKEN_ENV, KF_PIPELINES_SA_TOKEN_PATH
from kfp.client.token_credentials_base import TokenCredentialsBase

from drrho_clip.errors import ConfigError
from drrho_pipelines.server.address import Address

TOKEN = "KFP_TOKEN"
"""Environment variable with a token, where neither a file nor a command is given."""
COMMAND_SECONDS = 60.0


class NoToken(ConfigError):
    """There is no token where one should be, now at least."""


class Credentials(TokenCredentialsBase):  # type: ignore[misc]
    """The token that `read` gives: anew for every request, or (`kept`) once, and again when the server refuses it."""

    def __init__(self, read: Callable[[], str], *, kept: bool) -> None:
        self._read, self._kept = read, kept
        self._token = ""

    def renew(self) -> None:
        """Forget the token, so that the next request has a new one."""
        self._token = ""

    def refresh_api_key_hook(self, config: Any) -> None:
        """What kfp's client calls before each request; NoToken where there is none."""
        if not (self._kept and self._token):
            self._token = self._read()
        config.api_key["authorization"] = self._token


def credentials(address: Address) -> Credentials | None:
    """What the address says, else the token of the environment, else the one that a pod in the cluster has, else none."""
    if address.token_command:
        return Credentials(lambda: _printed(address.token_command), kept=True)
    if address.token_file:
        return Credentials(lambda: _stored(Path(address.token_file)), kept=False)
    if token := os.environ.get(TOKEN, "").strip():
        return Credentials(lambda: token, kept=True)
    mounted = Path(os.environ.get(KF_PIPELINES_SA_TOKEN_ENV) or KF_PIPELINES_SA_TOKEN_PATH)
    return Credentials(lambda: _stored(mounted), kept=False) if mounted.exists() else None


def _stored(path: Path) -> str:
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise NoToken(f"The token cannot be read: {getattr(error, 'strerror', error)}", where=str(path)) from None
    return _one_word(token, str(path))


def _printed(command: str) -> str:
    try:
        done = subprocess.run(shlex.split(command), stdout=subprocess.PIPE, text=True, timeout=COMMAND_SECONDS, check=True)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        reason = f"it ended with {error.returncode}" if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise NoToken(f"The token command gave no token: {reason}", where=command.split()[0]) from None
    return _one_word(done.stdout.strip(), "what the token command prints")


def _one_word(token: str, where: str) -> str:
    if not token or len(token.split()) > 1 or not token.isascii():
        raise NoToken("That is no token: one word is needed", where=where)
    return token
