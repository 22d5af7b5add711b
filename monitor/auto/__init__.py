"""`demur fit --auto`: scores, hyper-parameters and fusion chosen from in-distribution data, with the table that says why."""
