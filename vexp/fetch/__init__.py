"""What runs read from the Hugging Face hub, in one folder with a manifest, for machines without it.

The folder is a HF_HOME: with HF_HOME=FOLDER and HF_HUB_OFFLINE=1, the hub's own library finds all.
"""
