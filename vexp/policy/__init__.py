"""The model as a policy: prompts, log-probs, shards, adapters, randomness, processes."""
