"""Handwritten digits with a parameter server: the chief hands out steps, workers compute them, a server keeps weights.

One program for all, as TensorFlow's guide has it (https://www.tensorflow.org/tutorials/distribute/parameter_server_training):
who it is stands in TF_CONFIG. Workers and servers serve until the job ends, which it does when the chief ends.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HIDDEN, CLASSES = 64, 10


def report(epoch: int, accuracy: float) -> None:
    with Path(os.environ["FAIRLEAD_REPORTS"]).open("a") as reports:
        reports.write(json.dumps({"step": epoch, "val/accuracy": accuracy}) + "\n")


def serve(cluster: tf.distribute.cluster_resolver.TFConfigClusterResolver) -> None:
    own = {"job_name": cluster.task_type, "task_index": cluster.task_id, "protocol": "grpc"}
    server = tf.distribute.Server(cluster.cluster_spec(), **own)
    print(f"{cluster.task_type} {cluster.task_id} serves", flush=True)
    server.join()


def outputs(weights: list, x: tf.Tensor) -> tf.Tensor:
    first, second, beside, last = weights
    return tf.nn.relu(x @ first + second) @ beside + last


def train(cluster: tf.distribute.cluster_resolver.TFConfigClusterResolver, given: argparse.Namespace) -> None:
    strategy = tf.distribute.ParameterServerStrategy(cluster)
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    digits = load_digits()
    train_x, val_x, train_y, val_y = train_test_split(
        digits.data.astype("float32") / 16, digits.target, test_size=0.2, random_state=1
    )
    draw = np.random.default_rng(1)
    with strategy.scope():
        shapes = ((64, HIDDEN), (HIDDEN,), (HIDDEN, CLASSES), (CLASSES,))
        weights = [tf.Variable((draw.normal(size=shape) * 0.1).astype("float32")) for shape in shapes]
    done = tf.Variable(0, dtype=tf.int64)

    def batches() -> tf.data.Dataset:
        rows = tf.data.Dataset.from_tensor_slices((train_x, train_y)).shuffle(len(train_x)).repeat()
        return rows.batch(given.batch_size)

    @tf.function
    def step(rows: tf.data.Iterator) -> None:
        x, y = next(rows)
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, outputs(weights, x))
            loss = tf.reduce_mean(losses)
        for weight, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
            weight.assign_sub(given.lr * gradient)

    saved = tf.train.Checkpoint(weights=weights, done=done)
    keeper = tf.train.CheckpointManager(saved, os.environ["AIP_CHECKPOINT_DIR"], max_to_keep=1)
    saved.restore(keeper.latest_checkpoint)
    print(f"chief begins after epoch {int(done.numpy())}", flush=True)
    rows = iter(coordinator.create_per_worker_dataset(batches))
    for epoch in range(int(done.numpy()), given.epochs):
        for _ in range(len(train_x) // given.batch_size):
            coordinator.schedule(step, args=(rows,))
        coordinator.join()
        done.assign(epoch + 1)
        keeper.save()
        accuracy = float((outputs(weights, val_x).numpy().argmax(axis=1) == val_y).mean())
        print(f"epoch {epoch + 1} val/accuracy {accuracy:.4f}", flush=True)
        report(epoch + 1, accuracy)
    np.savez(Path(os.environ["AIP_MODEL_DIR"], "weights.npz"), *(weight.numpy() for weight in weights))


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--epochs", type=int, default=8)
    words.add_argument("--lr", type=float, default=0.5)
    words.add_argument("--batch_size", type=int, default=64)
    cluster = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    if cluster.task_type in ("worker", "ps"):
        serve(cluster)
    else:
        train(cluster, words.parse_args())


if __name__ == "__main__":
    main()
