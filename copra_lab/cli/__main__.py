from copra_lab.cli import main

main()
