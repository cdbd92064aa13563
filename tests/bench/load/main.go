// Load generator of `make bench`: clients and origin, both outside what is measured.
//
// It decides nothing about results: it makes connections, counts them and prints one line of JSON.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"time"
)

const usage = "load origin|connect|bulk|hold|http, each with -help"

func main() {
	debug.SetGCPercent(400)
	if len(os.Args) < 2 {
		fail(usage)
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	switch os.Args[1] {
	case "origin":
		origin(flags)
	case "connect":
		connect(flags)
	case "bulk":
		bulk(flags)
	case "hold":
		hold(flags)
	case "http":
		httpLoad(flags)
	default:
		fail(usage)
	}
}

func parse(flags *flag.FlagSet) {
	if err := flags.Parse(os.Args[2:]); err != nil {
		fail(err.Error())
	}
}

func report(value any) {
	line, err := json.Marshal(value)
	if err != nil {
		fail(err.Error())
	}
	fmt.Println(string(line))
}

func fail(text string) {
	fmt.Fprintln(os.Stderr, text)
	os.Exit(2)
}

// awaitLine waits for a line on standard input; at its end the parent is gone, and so is the work.
func awaitLine(input *bufio.Reader) {
	if _, err := input.ReadString('\n'); err != nil {
		os.Exit(1)
	}
}

func since(start time.Time) float64 {
	return time.Since(start).Seconds()
}
