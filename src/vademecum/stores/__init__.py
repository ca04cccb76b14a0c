"""Where a bank's rows live and in what form: in memory, in a file, quantised; whoever reads does not know which."""
