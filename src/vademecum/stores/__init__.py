"""Where a bank's rows live and in what form: in memory, in a file, quantised. Whoever reads rows does not know which."""
