"""A trial as a Hydra application: it takes as long as the list says that its number takes."""

import os
import time
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig

ConfigStore.instance().store(name="config", node={"x": 0.5})


@hydra.main(version_base="1.3", config_path=None, config_name="config")
def main(config) -> float:
    folder, number = Path(os.environ["BENCH_TRIALS"]), HydraConfig.get().job.num
    (folder / f"{number}.begun").write_text(str(time.time()))
    time.sleep(float((folder / "durations").read_text().split()[number]))
    (folder / f"{number}.ended").write_text(str(time.time()))
    return (config.x - 0.3) ** 2


if __name__ == "__main__":
    main()
