"""Everything that was published, read once more: is each byte what its manifest or marker says, and can it be used?"""

from drrho_clip.verification.dataset import verify_dataset
from drrho_clip.verification.findings import Verified
from drrho_clip.verification.run import verify_run

__all__ = ["Verified", "verify_dataset", "verify_run"]
