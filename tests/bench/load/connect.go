// Short connections: connect, one exchange, close; as fast as answered, or at a fixed rate spread over the clients.
package main

import (
	"errors"
	"flag"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

type tally struct {
	sync.Mutex
	micros []float64
	errors map[string]int
	failed int
}

// failure counts by cause: the whole text names ports, and is another one each time.
func (t *tally) failure(err error) {
	t.Lock()
	defer t.Unlock()
	for errors.Unwrap(err) != nil {
		err = errors.Unwrap(err)
	}
	t.failed++
	t.errors[err.Error()]++
}

func connect(flags *flag.FlagSet) {
	r := routeFlags(flags)
	count := flags.Int64("count", 1000, "connections in all")
	clients := flags.Int("clients", 32, "connections under way at once")
	rate := flags.Float64("rate", 0, "connections a second in all; 0: each client goes on as soon as it is answered")
	parse(flags)
	r.prepare()
	t := &tally{errors: map[string]int{}}
	left := atomic.Int64{}
	left.Store(*count)
	start := time.Now()
	wait := sync.WaitGroup{}
	for i := range *clients {
		wait.Add(1)
		go func() {
			defer wait.Done()
			pace := pacer(start, *rate, *clients, i)
			client(r, &left, pace, t)
		}()
	}
	wait.Wait()
	report(map[string]any{
		"seconds": since(start), "failed": t.failed, "errors": t.errors,
		"p50": percentile(t.micros, 0.5), "p99": percentile(t.micros, 0.99), "done": len(t.micros),
	})
}

// pacer gives client i its turns: evenly spread, so that clients do not queue behind each other.
func pacer(start time.Time, rate float64, clients, i int) func() {
	if rate == 0 {
		return func() {}
	}
	period := time.Duration(float64(clients) / rate * float64(time.Second))
	due := start.Add(period * time.Duration(i) / time.Duration(clients))
	return func() {
		time.Sleep(time.Until(due))
		due = due.Add(period)
	}
}

func client(r *route, left *atomic.Int64, pace func(), t *tally) {
	out, in := buffers()
	micros := []float64{}
	for left.Add(-1) >= 0 {
		pace()
		start := time.Now()
		conn, err := r.dial()
		if err == nil {
			err = exchange(conn, out, in)
			conn.Close()
		}
		if err != nil {
			t.failure(err)
			continue
		}
		micros = append(micros, since(start)*1e6)
	}
	t.Lock()
	defer t.Unlock()
	t.micros = append(t.micros, micros...)
}

func percentile(values []float64, share float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[int(float64(len(values)-1)*share)]
}
