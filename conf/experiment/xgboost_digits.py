"""Handwritten digits by gradient-boosted trees: a report after each round, and a model to go on from when restarted."""

import argparse
import json
import os
from pathlib import Path

import xgboost
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


class Report(xgboost.callback.TrainingCallback):
    """A line of JSON for each round."""

    def after_iteration(self, model: xgboost.Booster, epoch: int, evals_log: dict) -> bool:
        error = evals_log["val"]["merror"][-1]
        with Path(os.environ.get("FAIRLEAD_REPORTS", "reports.jsonl")).open("a") as reports:
            reports.write(json.dumps({"step": epoch + 1, "val/accuracy": 1 - error}) + "\n")
        return False


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--rounds", type=int, default=20)
    words.add_argument("--max_depth", type=int, default=4)
    words.add_argument("--eta", type=float, default=0.3)
    given = words.parse_args()

    digits = load_digits()
    train_x, val_x, train_y, val_y = train_test_split(digits.data, digits.target, test_size=0.2, random_state=1)
    train, val = xgboost.DMatrix(train_x, train_y), xgboost.DMatrix(val_x, val_y)
    how = {"objective": "multi:softmax", "num_class": 10, "eval_metric": "merror", "nthread": 1}
    how |= {"max_depth": given.max_depth, "eta": given.eta}

    kept = Path(os.environ.get("AIP_CHECKPOINT_DIR", "."))
    newest = max(kept.glob("round_*.ubj"), key=lambda path: path.stat().st_mtime, default=None)
    before = xgboost.Booster(model_file=newest) if newest else None
    left = given.rounds - (before.num_boosted_rounds() if before else 0)
    saved = xgboost.callback.TrainingCheckPoint(kept, "round", interval=5)
    model = xgboost.train(how, train, left, evals=[(val, "val")], xgb_model=before, callbacks=[Report(), saved])
    model.save_model(Path(os.environ.get("AIP_MODEL_DIR", "."), "model.ubj"))


if __name__ == "__main__":
    main()
