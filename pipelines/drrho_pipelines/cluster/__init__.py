"""What a cluster has of all that a run needs: `drrho doctor --cluster`."""
