"""Hydra's launcher and sweeper `fairlead`: `python app.py -m hydra/launcher=fairlead hydra/sweeper=fairlead ...`

Every start of every Hydra application imports what stands here without a leading underscore, so that is little.
Nothing of Fairlead is imported into an application, which may have a package `conf` of its own: _fairlead.py
asks for it in another process.
"""
