"""A Hydra application with Fairlead's own configuration. Does nothing with it: the way to the queue is measured."""

import os

import hydra


@hydra.main(version_base="1.3", config_path=os.environ["BENCH_CONF"], config_name="config")
def main(config) -> None:
    pass


if __name__ == "__main__":
    main()
