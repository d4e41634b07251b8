"""What several tests need: servers, clusters, strategies. Must not hold assertions of its own."""
