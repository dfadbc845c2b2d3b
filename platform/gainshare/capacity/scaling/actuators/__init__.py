"""Who carries out wanted counts: the agents here, a Ray cluster, or something outside that reads metrics."""
