"""Questions answered by running arms over seeds: a plan, and figures over what its runs saw inside."""
