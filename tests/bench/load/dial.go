// How a client reaches the target: straight, or through a proxy that speaks HTTP CONNECT or SOCKS5.
package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	exchangeBytes       = 64
	deadline            = 30 * time.Second
	bindAddressNoPort   = 24 // IP_BIND_ADDRESS_NO_PORT, linux/in.h
	largestProxyRequest = 4096
)

type route struct {
	speak, address, target, user, password, source *string
	dialer                                         net.Dialer
}

func routeFlags(flags *flag.FlagSet) *route {
	return &route{
		speak:    flags.String("speak", "direct", "direct, http or socks"),
		address:  flags.String("address", "", "host:port of the proxy (or of the origin, where direct)"),
		target:   flags.String("target", "", "host:port that the proxy is asked for"),
		user:     flags.String("user", "", "user name; empty for no authentication"),
		password: flags.String("password", "", "password"),
		source:   flags.String("source", "", "address to connect from"),
	}
}

// prepare is called after the flags are parsed.
func (r *route) prepare() {
	r.dialer.Timeout = deadline
	if *r.source == "" {
		return
	}
	r.dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(*r.source)}
	r.dialer.Control = func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) {
			syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, bindAddressNoPort, 1)
		})
	}
}

// dial returns a connection on which the next byte is the target's.
func (r *route) dial() (net.Conn, error) {
	conn, err := r.dialer.Dial("tcp", *r.address)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(deadline))
	switch *r.speak {
	case "http":
		err = r.askHTTP(conn)
	case "socks":
		err = r.askSocks(conn)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func (r *route) askHTTP(conn net.Conn) error {
	request := "CONNECT " + *r.target + " HTTP/1.1\r\nHost: " + *r.target + "\r\n"
	if *r.user != "" {
		credentials := base64.StdEncoding.EncodeToString([]byte(*r.user + ":" + *r.password))
		request += "Proxy-Authorization: Basic " + credentials + "\r\n"
	}
	if _, err := conn.Write([]byte(request + "User-Agent: bench\r\n\r\n")); err != nil {
		return err
	}
	answer, buffer := []byte{}, make([]byte, largestProxyRequest)
	for !bytes.Contains(answer, []byte("\r\n\r\n")) {
		n, err := conn.Read(buffer)
		if err != nil {
			return err
		}
		answer = append(answer, buffer[:n]...)
	}
	if fields := strings.Fields(string(answer)); len(fields) < 2 || fields[1] != "200" {
		return fmt.Errorf("refused: %.40q", answer)
	}
	return nil
}

// askSocks waits for every answer before it goes on, as clients do (RFC 1928, RFC 1929).
func (r *route) askSocks(conn net.Conn) error {
	method := byte(0)
	if *r.user != "" {
		method = 2
	}
	if err := ask(conn, []byte{5, 1, method}, []byte{5, method}); err != nil {
		return err
	}
	if method == 2 {
		request := append([]byte{1, byte(len(*r.user))}, *r.user...)
		request = append(append(request, byte(len(*r.password))), *r.password...)
		if err := ask(conn, request, []byte{1, 0}); err != nil {
			return err
		}
	}
	host, portText, _ := net.SplitHostPort(*r.target)
	port, _ := strconv.Atoi(portText)
	request := append([]byte{5, 1, 0, 1}, net.ParseIP(host).To4()...)
	request = append(request, byte(port>>8), byte(port))
	if err := ask(conn, request, []byte{5, 0, 0, 1}); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 6))
	return err
}

func ask(conn net.Conn, question, expected []byte) error {
	if _, err := conn.Write(question); err != nil {
		return err
	}
	answer := make([]byte, len(expected))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return err
	}
	if !bytes.Equal(answer, expected) {
		return fmt.Errorf("refused: % x", answer)
	}
	return nil
}

// exchange sends 64 bytes and reads them back.
func exchange(conn net.Conn, out, in []byte) error {
	conn.SetDeadline(time.Now().Add(deadline))
	if _, err := conn.Write(out); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, in); err != nil {
		return err
	}
	if !bytes.Equal(in, out) {
		return errors.New("other bytes came back")
	}
	return nil
}

func buffers() (out, in []byte) {
	return bytes.Repeat([]byte("x"), exchangeBytes), make([]byte, exchangeBytes)
}
