"""The console command `covidseg`: one thin module a subcommand over the library's functions."""
