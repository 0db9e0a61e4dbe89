"""What a training script makes: checkpoints, and versions of models that a server can trust."""
