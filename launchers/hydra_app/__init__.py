"""Other people's Hydra applications (`python app.py -m hydra/launcher=fairlead`) as jobs of ours."""
