"""One machine's stack: what runs (topology) with which values (settings), rendered, supervised."""
