package main

// workerHelp is the help of 'soniq worker', which has an example.
func workerHelp() string { return (&workerRunCmd{}).Help() }
