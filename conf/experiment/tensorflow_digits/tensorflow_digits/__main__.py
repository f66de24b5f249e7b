"""Handwritten digits by two Keras layers on as many workers as TF_CONFIG names; started again, they go on.

It is the loop of TensorFlow's own guide to several workers, as Keras 3 has no `fit` for them.
"""

import argparse
import json
import os
from pathlib import Path

import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def report(epoch: int, accuracy: float) -> None:
    with Path(os.environ["FAIRLEAD_REPORTS"]).open("a") as reports:
        reports.write(json.dumps({"step": epoch, "val/accuracy": accuracy}) + "\n")


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--epochs", type=int, default=8)
    words.add_argument("--lr", type=float, default=0.005)
    words.add_argument("--batch_size", type=int, default=64)
    given = words.parse_args()

    strategy = tf.distribute.MultiWorkerMirroredStrategy()  # meets the others; before all that asks for a device
    task, workers = strategy.cluster_resolver, strategy.num_replicas_in_sync
    chief = task.task_type in (None, "", "chief")
    print(f"{task.task_type or 'alone'} {task.task_id or 0} of {workers}", flush=True)

    digits = load_digits()
    train_x, val_x, train_y, val_y = train_test_split(
        digits.data.astype("float32") / 16, digits.target, test_size=0.2, random_state=1
    )
    train = tf.data.Dataset.from_tensor_slices((train_x, train_y)).shuffle(len(train_x), seed=1)
    batches = strategy.experimental_distribute_dataset(train.batch(given.batch_size, drop_remainder=True))
    with strategy.scope():
        model = tf.keras.Sequential(
            [tf.keras.Input((64,)), tf.keras.layers.Dense(64, activation="relu"), tf.keras.layers.Dense(10)]
        )
        optimizer = tf.keras.optimizers.Adam(given.lr)
        optimizer.build(model.trainable_variables)
    done = tf.Variable(0, dtype=tf.int64)

    def of_one(x: tf.Tensor, y: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(x, training=True))
            loss = tf.reduce_sum(losses) / given.batch_size
        optimizer.apply_gradients(
            zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True)
        )

    @tf.function
    def step(batch: tuple) -> None:
        strategy.run(of_one, args=batch)

    # every worker saves, as the others wait for it; what the chief saved is what all begin with
    saved, kept = tf.train.Checkpoint(model=model, optimizer=optimizer, done=done), os.environ["AIP_CHECKPOINT_DIR"]
    saved.restore(tf.train.latest_checkpoint(Path(kept, "chief")))
    own = "chief" if chief else f"worker-{task.task_id}"
    keeper = tf.train.CheckpointManager(saved, Path(kept, own), max_to_keep=1)
    print(f"begins after epoch {int(done.numpy())}", flush=True)
    for epoch in range(int(done.numpy()), given.epochs):
        for batch in batches:
            step(batch)
        done.assign(epoch + 1)
        keeper.save()
        accuracy = float((model(val_x).numpy().argmax(axis=1) == val_y).mean())
        print(f"epoch {epoch + 1} val/accuracy {accuracy:.4f}", flush=True)
        report(epoch + 1, accuracy)
    if chief:
        model.save(Path(os.environ["AIP_MODEL_DIR"], "model.keras"))


if __name__ == "__main__":
    main()
