// Package reaper lets a program be the first process of a container. The kernel gives
// that process all children whose parents have ended, and they stay as zombies until it
// waits for them. A program that waits for any child would take the children that
// os/exec waits for. So the first process does nothing else: it starts the program again
// as its child, passes signals on, and waits for whatever ends.
//
//	process 1: Run --- starts ---> the program
//	   | waits for all                | starts commands, which leave children
//	   +<--------- the kernel --------+
package reaper

// FirstProcess is the id of the process that the kernel gives orphans to.
const FirstProcess = 1
