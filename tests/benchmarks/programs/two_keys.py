"""A Hydra application with a configuration of two keys. Does nothing with it."""

import hydra
from hydra.core.config_store import ConfigStore

ConfigStore.instance().store(name="config", node={"optimizer": {"lr": 0.1}, "seed": 1})


@hydra.main(version_base="1.3", config_path=None, config_name="config")
def main(config) -> None:
    pass


if __name__ == "__main__":
    main()
