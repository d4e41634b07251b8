"""What several tests share: servers, clusters, strategies. It contains no tests."""
