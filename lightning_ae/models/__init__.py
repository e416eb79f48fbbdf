"""The variants, a file a family. `lightning_ae.registry` lists them."""
