// The origin: echoes what comes, and sends N bytes where the first line is "SEND N". A name server beside it answers
// the probes of exit agents.
package main

import (
	"bufio"
	"bytes"
	"flag"
	"io"
	"net"
	"os"
	"strconv"
)

func origin(flags *flag.FlagSet) {
	host := flags.String("host", "127.0.0.1", "address to listen on")
	names := flags.Bool("names", false, "answer DNS questions on port 53 of the same address")
	parse(flags)
	listener, err := net.Listen("tcp", net.JoinHostPort(*host, "0"))
	if err != nil {
		fail(err.Error())
	}
	if *names {
		go answerNames(net.JoinHostPort(*host, "53"))
	}
	report(map[string]int{"port": listener.Addr().(*net.TCPAddr).Port})
	go endWithParent()
	for {
		conn, err := listener.Accept()
		if err != nil {
			fail(err.Error())
		}
		go serve(conn)
	}
}

func endWithParent() {
	io.Copy(io.Discard, bufio.NewReader(os.Stdin))
	os.Exit(0)
}

func serve(conn net.Conn) {
	defer conn.Close()
	buffer := make([]byte, 1024)
	for first := true; ; first = false {
		n, err := conn.Read(buffer)
		if err != nil {
			return
		}
		if count, ok := bytes.CutPrefix(buffer[:n], []byte("SEND ")); first && ok {
			send(conn, string(bytes.TrimSpace(count)))
			return
		}
		if _, err := conn.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func send(conn net.Conn, count string) {
	left, err := strconv.Atoi(count)
	if err != nil {
		return
	}
	chunk := make([]byte, 256<<10)
	for left > 0 {
		n, err := conn.Write(chunk[:min(left, len(chunk))])
		if err != nil {
			return
		}
		left -= n
	}
}

// answerNames answers every question with "no such name" (RFC 1035 section 4.1.1): a sign of life is all a probe asks.
func answerNames(address string) {
	conn, err := net.ListenPacket("udp", address)
	if err != nil {
		fail(err.Error())
	}
	packet := make([]byte, 512)
	for {
		n, peer, err := conn.ReadFrom(packet)
		if err != nil || n < 12 {
			continue
		}
		packet[2], packet[3] = 0x81, 0x83
		conn.WriteTo(packet[:n], peer)
	}
}
