"""Training: from items to responses, rewards, advantages and updates of the policy."""
