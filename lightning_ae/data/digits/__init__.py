"""An embedded data set: see README.md in this folder."""
