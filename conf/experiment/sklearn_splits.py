"""Iris by a decision tree, from the CSV files that $AIP_TRAINING_DATA_URI and its like name: as on Vertex AI.

Each of the variables is a path with a wildcard; each file begins with the names of its columns.
"""

import argparse
import csv
import json
import os
import pickle
from pathlib import Path

from sklearn.tree import DecisionTreeClassifier


def rows(part: str) -> tuple[list[list[float]], list[str]]:
    """Features and classes of all files of a part."""
    features, classes = [], []
    uri = Path(os.environ[f"AIP_{part}_DATA_URI"])
    for path in sorted(uri.parent.glob(uri.name)):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                classes.append(row.pop("target"))
                features.append([float(value) for value in row.values()])
    return features, classes


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--depth", type=int, default=3)
    depth = words.parse_args().depth

    model = DecisionTreeClassifier(max_depth=depth, random_state=0).fit(*rows("TRAINING"))
    found = {"val/accuracy": model.score(*rows("VALIDATION")), "test/accuracy": model.score(*rows("TEST"))}

    print(" ".join(f"{name} {value:.4f}" for name, value in found.items()))
    with Path(os.environ.get("FAIRLEAD_REPORTS", "reports.jsonl")).open("a") as reports:
        reports.write(json.dumps({"step": 1, **found}) + "\n")
    Path(os.environ.get("AIP_MODEL_DIR", "."), "model.pkl").write_bytes(pickle.dumps(model))


if __name__ == "__main__":
    main()
