"""What a run shows of itself: metrics, logs and progress bars."""

from drrho_clip.observe.logs import configure_logs, get_logger
from drrho_clip.observe.metrics import METRICS, Metric, MetricSet
from drrho_clip.observe.progress import progress

__all__ = ["METRICS", "Metric", "MetricSet", "configure_logs", "get_logger", "progress"]
