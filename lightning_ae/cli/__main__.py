from lightning_ae.cli.app import main

main()
