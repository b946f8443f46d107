"""One study: its run folder, its arms, its progress display and its report."""
