// Requests on connections that are kept: each client asks, reads the whole answer, asks again.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	answerBuffer = 256 * 1024
	longestHead  = 100
)

type fields []string

func (f *fields) String() string { return strings.Join(*f, ", ") }

func (f *fields) Set(field string) error {
	*f = append(*f, field)
	return nil
}

func httpLoad(flags *flag.FlagSet) {
	address := flags.String("address", "", "host:port of the server")
	path := flags.String("path", "/", "what is asked for")
	clients := flags.Int("clients", 64, "connections, each with one request at a time")
	seconds := flags.Float64("seconds", 5, "for so long")
	expected := flags.Int("status", 200, "any other status is a failure")
	extra := fields{}
	flags.Var(&extra, "header", "a header field; may be given more than once")
	parse(flags)
	request := "GET " + *path + " HTTP/1.1\r\nHost: " + *address + "\r\n"
	for _, field := range extra {
		request += field + "\r\n"
	}
	request += "\r\n"

	t := &tally{errors: map[string]int{}}
	size := int64(0)
	start := time.Now()
	end := start.Add(time.Duration(*seconds * float64(time.Second)))
	wait := sync.WaitGroup{}
	for range *clients {
		wait.Add(1)
		go func() {
			defer wait.Done()
			micros, bytes, err := keepAsking(*address, []byte(request), *expected, end)
			if err != nil {
				t.failure(err)
			}
			t.Lock()
			defer t.Unlock()
			t.micros = append(t.micros, micros...)
			size += bytes
		}()
	}
	wait.Wait()
	report(map[string]any{
		"seconds": since(start), "failed": t.failed, "errors": t.errors, "done": len(t.micros), "bytes": size,
		"p50": percentile(t.micros, 0.5), "p95": percentile(t.micros, 0.95), "p99": percentile(t.micros, 0.99),
		"own_cpu": ownCPU(),
	})
}

// keepAsking is one client, until `end` or the first failure.
func keepAsking(address string, request []byte, expected int, end time.Time) (micros []float64, size int64, err error) {
	conn, err := net.DialTimeout("tcp", address, deadline)
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close()
	reader := bufio.NewReaderSize(conn, answerBuffer)
	for time.Now().Before(end) {
		start := time.Now()
		conn.SetDeadline(start.Add(deadline))
		if _, err := conn.Write(request); err != nil {
			return micros, size, err
		}
		length, err := readAnswer(reader, expected)
		if err != nil {
			return micros, size, err
		}
		size += int64(length)
		micros = append(micros, since(start)*1e6)
	}
	return micros, size, nil
}

// readAnswer reads one answer to its end, and gives the length of its body.
func readAnswer(reader *bufio.Reader, expected int) (int, error) {
	status, length := 0, 0
	for line := range longestHead {
		text, err := reader.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		text = bytes.TrimRight(text, "\r\n")
		if line == 0 {
			if status, err = strconv.Atoi(string(bytes.Fields(text)[1])); err != nil {
				return 0, err
			}
			continue
		}
		if len(text) == 0 {
			if status != expected {
				return 0, fmt.Errorf("status %d", status)
			}
			_, err := io.CopyN(io.Discard, reader, int64(length))
			return length, err
		}
		name, value, _ := bytes.Cut(text, []byte(":"))
		if bytes.EqualFold(name, []byte("content-length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, err
			}
		}
		if bytes.EqualFold(name, []byte("transfer-encoding")) {
			return 0, errors.New("the answer has no length")
		}
	}
	return 0, errors.New("the head of the answer does not end")
}

func ownCPU() float64 {
	usage := syscall.Rusage{}
	syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return float64(usage.Utime.Sec+usage.Stime.Sec) + float64(usage.Utime.Usec+usage.Stime.Usec)/1e6
}
