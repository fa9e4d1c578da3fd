"""`llmfleet up --runtime ray-serve`: the fleet's engines as replicas of Ray Serve, on Ray that `up` starts."""
