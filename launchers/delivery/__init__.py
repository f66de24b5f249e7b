"""What becomes of what the ranks left: results, the tracking store, the model registry, TensorBoard. It may run late,
twice, or not at all; training does not wait for it."""
