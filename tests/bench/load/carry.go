// Connections that last: bulk downloads, and tunnels that are held open and used at the end.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

func bulk(flags *flag.FlagSet) {
	r := routeFlags(flags)
	total := flags.Int64("bytes", 1<<30, "bytes in all")
	clients := flags.Int64("clients", 1, "connections that share them")
	parse(flags)
	r.prepare()
	start := time.Now()
	received := atomic.Int64{}
	wait := sync.WaitGroup{}
	for range *clients {
		wait.Add(1)
		go func() {
			defer wait.Done()
			received.Add(download(r, *total / *clients))
		}()
	}
	wait.Wait()
	report(map[string]any{"seconds": since(start), "bytes": received.Load(), "wanted": *total / *clients * *clients})
}

func download(r *route, count int64) int64 {
	conn, err := r.dial()
	if err != nil {
		return 0
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Minute))
	fmt.Fprintf(conn, "SEND %d\n", count)
	received, buffer := int64(0), make([]byte, 512<<10)
	for {
		n, err := conn.Read(buffer)
		received += int64(n)
		if err == io.EOF {
			return received
		}
		if err != nil {
			return received
		}
	}
}

// hold opens tunnels and says so; at the first line of input it uses every one of them, at the second it closes them.
func hold(flags *flag.FlagSet) {
	r := routeFlags(flags)
	count := flags.Int("count", 1000, "tunnels")
	clients := flags.Int("clients", 16, "tunnels that are opened or used at once")
	parse(flags)
	r.prepare()
	t := &tally{errors: map[string]int{}}
	conns := make([]net.Conn, *count)
	each(*count, *clients, func(i int) {
		conn, err := r.dial()
		if err != nil {
			t.failure(err)
			return
		}
		conns[i] = conn
	})
	report(map[string]any{"open": *count - t.failed, "errors": t.errors})
	input := bufio.NewReader(os.Stdin)
	awaitLine(input)
	passed := atomic.Int64{}
	each(*count, *clients, func(i int) {
		out, in := buffers()
		if conns[i] == nil {
			return
		}
		if err := exchange(conns[i], out, in); err != nil {
			t.failure(err)
			return
		}
		passed.Add(1)
	})
	report(map[string]any{"passed": passed.Load(), "errors": t.errors})
	awaitLine(input)
}

func each(count, clients int, work func(i int)) {
	next := atomic.Int64{}
	wait := sync.WaitGroup{}
	for range clients {
		wait.Add(1)
		go func() {
			defer wait.Done()
			for i := int(next.Add(1)) - 1; i < count; i = int(next.Add(1)) - 1 {
				work(i)
			}
		}()
	}
	wait.Wait()
}
