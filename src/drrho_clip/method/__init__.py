"""Objectives with and without a reference, and what they keep and show; torch is imported on first use."""

from typing import TYPE_CHECKING, Any

from drrho_clip.method.config import METHODS, MethodConfig

if TYPE_CHECKING:
    from drrho_clip.method.global_loss import global_contrastive_loss

__all__ = ["METHODS", "MethodConfig", "global_contrastive_loss"]


def __getattr__(name: str) -> Any:
    if name == "global_contrastive_loss":
        from drrho_clip.method.global_loss import global_contrastive_loss

        return global_contrastive_loss
    raise AttributeError(name)
