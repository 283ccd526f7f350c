"""What a run shows of itself: metrics, logs and progress bars."""

from drrho_clip.observe.logs import configure_logs, get_logger
from drrho_clip.observe.metrics import METRICS, Metric, MetricSet, metrics_of
from drrho_clip.observe.progress import progress
from drrho_clip.observe.push import pushed

__all__ = ["METRICS", "Metric", "MetricSet", "configure_logs", "get_logger", "metrics_of", "progress", "pushed"]
