"""Handwritten digits by a support vector machine: what a script needs to run under Fairlead, which is nothing.

Its parameters are arguments, its reports lines of JSON, and its model goes where $AIP_MODEL_DIR says.
"""

import argparse
import json
import os
import pickle
from pathlib import Path

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--c", type=float, default=1.0)
    words.add_argument("--gamma", type=float, default=0.001)
    given = words.parse_args()

    digits = load_digits()
    train_x, val_x, train_y, val_y = train_test_split(digits.data, digits.target, test_size=0.2, random_state=1)
    model = SVC(C=given.c, gamma=given.gamma).fit(train_x, train_y)
    accuracy = float(model.score(val_x, val_y))

    print(f"val/accuracy {accuracy:.4f}")
    with Path(os.environ.get("FAIRLEAD_REPORTS", "reports.jsonl")).open("a") as reports:
        reports.write(json.dumps({"step": 1, "val/accuracy": accuracy}) + "\n")
    Path(os.environ.get("AIP_MODEL_DIR", "."), "model.pkl").write_bytes(pickle.dumps(model))


if __name__ == "__main__":
    main()
