// Command protocol speaks the zstream protocol in Go, with a pure-Go ZeroMQ and msgpack:
// it inserts, confirms, pages and follows. docs/protocol.md explains it.
//
//	ZSTREAM_URL=tcp://127.0.0.1:5570 go run .
package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"log"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/go-zeromq/zmq4"
	"github.com/vmihailenco/msgpack/v5"
)

// Types of publications.
const (
	DATA = 1 + iota
	HELLO
	BEAT
	ACK
	NACK
	ERR
	TOMBSTONE
	BYE
)

const patience = 5 * time.Second

// Event is one [id, ts, event] of a reply or of a publication.
type Event struct {
	_msgpack struct{} `msgpack:",as_array"`
	ID, TS   uint64
	Fields   map[string]any
}

// Reply has the fields of all replies that are used here.
type Reply struct {
	OK    bool   `msgpack:"ok"`
	ID    uint64 `msgpack:"id"`
	Error struct {
		Code    string `msgpack:"code"`
		Message string `msgpack:"message"`
	} `msgpack:"error"`
	Run      uint64   `msgpack:"run"`
	Head     uint64   `msgpack:"head"`
	Protocol uint64   `msgpack:"protocol"`
	IDs      []uint64 `msgpack:"ids"`
	Events   []Event  `msgpack:"events"`
	Next     string   `msgpack:"next"`
	Upto     uint64   `msgpack:"upto"`
	Last     uint64   `msgpack:"last"`
	Refused  uint64   `msgpack:"refused"`
}

// Client knows where a daemon listens.
type Client struct {
	query, insert, publish string
	asked                  uint64
}

// NewClient derives the insert and the publish endpoint from the query endpoint.
func NewClient(query string) (*Client, error) {
	host, port, err := net.SplitHostPort(strings.TrimPrefix(query, "tcp://"))
	if err != nil {
		return nil, err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	next := func(offset int) string {
		return "tcp://" + net.JoinHostPort(host, strconv.Itoa(number+offset))
	}
	return &Client{query: next(0), insert: next(1), publish: next(2)}, nil
}

// Ask sends one request and returns the reply. Each request has a socket of its own: Recv takes
// no timeout here, only Close ends it, and a REQ that was closed by the daemon does not dial again.
func (c *Client) Ask(op string, fields map[string]any) (*Reply, error) {
	socket := zmq4.NewReq(context.Background())
	defer socket.Close()
	if err := socket.Dial(c.query); err != nil {
		return nil, err
	}
	c.asked++
	request := map[string]any{"op": op, "id": c.asked}
	for name, value := range fields {
		request[name] = value
	}
	frame, err := msgpack.Marshal(request)
	if err != nil {
		return nil, err
	}
	defer time.AfterFunc(patience, func() { socket.Close() }).Stop()
	if err := socket.Send(zmq4.NewMsg(frame)); err != nil {
		return nil, err
	}
	message, err := socket.Recv()
	for err == nil && message.Type == zmq4.CmdMsg { // a ZMTP command, not a reply
		message, err = socket.Recv()
	}
	if err != nil {
		return nil, fmt.Errorf("no answer to %s: %w", op, err)
	}
	reply := &Reply{}
	if err := msgpack.Unmarshal(message.Frames[0], reply); err != nil {
		return nil, err
	}
	if !reply.OK {
		return nil, fmt.Errorf("%s: %s", reply.Error.Code, reply.Error.Message)
	}
	if reply.ID != c.asked {
		return nil, fmt.Errorf("reply %d to request %d", reply.ID, c.asked)
	}
	return reply, nil
}

// Header is the second frame of a publication.
type Header struct {
	Type               uint8
	Node               uint16
	Run, Prev, ID, Now uint64
}

// Publication is one message on a topic.
type Publication struct {
	Header
	Body []byte
}

// ReadHeader takes the 40 bytes apart.
func ReadHeader(frame []byte) (Header, error) {
	if len(frame) != 40 || string(frame[:3]) != "ZT\x01" {
		return Header{}, fmt.Errorf("not the header of a publication of version 1: %x", frame)
	}
	number := func(at int) uint64 { return binary.BigEndian.Uint64(frame[at:]) }
	return Header{
		Type: frame[3], Node: binary.BigEndian.Uint16(frame[4:]),
		Run: number(8), Prev: number(16), ID: number(24), Now: number(32),
	}, nil
}

// Subscribe receives one topic over one connection, until stop is called; then, or when the
// connection ends, the channel is closed.
func (c *Client) Subscribe(topic string) (publications <-chan Publication, stop func(), err error) {
	ctx, cancel := context.WithCancel(context.Background())
	socket := zmq4.NewSub(ctx)
	if err := socket.Dial(c.publish); err != nil {
		cancel()
		return nil, nil, err
	}
	if err := socket.SetOption(zmq4.OptionSubscribe, topic); err != nil {
		socket.Close()
		cancel()
		return nil, nil, err
	}
	channel := make(chan Publication, 100)
	go func() {
		defer close(channel)
		for {
			message, err := socket.Recv()
			if err != nil {
				return
			}
			// A SUB matches by prefix, and this library hands ZMTP commands out as messages.
			if message.Type == zmq4.CmdMsg || len(message.Frames) != 3 || string(message.Frames[0]) != topic {
				continue
			}
			header, err := ReadHeader(message.Frames[1])
			if err != nil {
				return
			}
			select {
			case channel <- Publication{header, message.Frames[2]}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return channel, func() { cancel(); socket.Close() }, nil
}

// Producer numbers batches, and keeps each until it is on disk.
type Producer struct {
	client *Client
	id     [16]byte
	n      uint64
	kept   []zmq4.Msg // the newest is batch n
}

// Send numbers a batch; its bytes never change again.
func (p *Producer) Send(push zmq4.Socket, events []any) error {
	body, err := msgpack.Marshal(events)
	if err != nil {
		return err
	}
	p.n++
	header := BatchHeader(p.id, 0, p.n, uint32(len(events)), body)
	p.kept = append(p.kept, zmq4.NewMsgFrom(header, body))
	return push.Send(p.kept[len(p.kept)-1])
}

// BatchHeader makes the 40 bytes that stand before a batch.
func BatchHeader(producer [16]byte, epoch uint32, n uint64, count uint32, body []byte) []byte {
	header := append([]byte{'Z', 'I', 1, 0}, producer[:]...)
	header = binary.BigEndian.AppendUint32(header, epoch)
	header = binary.BigEndian.AppendUint64(header, n)
	header = binary.BigEndian.AppendUint32(header, count)
	return binary.BigEndian.AppendUint32(header, crc32.ChecksumIEEE(body))
}

// Flush returns when all batches are on disk. What it cannot find confirmed it sends again, over
// a new socket: after a lost connection Send succeeds here and the message is gone.
func (p *Producer) Flush() (*Reply, error) {
	acks, stop, err := p.client.Subscribe(fmt.Sprintf("@%x", p.id))
	if err != nil {
		return nil, err
	}
	defer stop()
	for {
		select {
		case message, open := <-acks:
			if open && (message.Type != ACK || message.ID < p.n) {
				continue
			}
		case <-time.After(patience):
		}
		mark, err := p.client.Ask("watermark", map[string]any{"producer": p.id[:]})
		if err != nil {
			return nil, err
		}
		if mark.Last+uint64(len(p.kept)) < p.n {
			return nil, fmt.Errorf("the store lost what it had confirmed")
		}
		p.kept = p.kept[uint64(len(p.kept))-(p.n-mark.Last):]
		if len(p.kept) == 0 {
			return mark, nil
		}
		push := zmq4.NewPush(context.Background())
		if err := push.Dial(p.client.insert); err != nil {
			return nil, err
		}
		for _, message := range p.kept {
			if err := push.Send(message); err != nil {
				break
			}
		}
		push.Close()
	}
}

// Walk calls each with the events of a slice, newest first, so many a page.
func (c *Client) Walk(filter map[string]any, size int, each func(Event)) error {
	fields := map[string]any{"filter": filter, "limit": size}
	for {
		page, err := c.Ask("items", fields)
		if err != nil {
			return err
		}
		for _, event := range page.Events {
			each(event)
		}
		if page.Next == "" {
			return nil
		}
		fields["before"] = page.Next
	}
}

// Each takes an event and the run that belongs to its id: both are needed to go on from there.
type Each func(run uint64, event Event) bool

// Follow calls each with the events of a filter above a cursor, by rising id and without a hole,
// until it returns false.
func (c *Client) Follow(topic string, filter map[string]any, run, cursor uint64, each Each) error {
	for {
		publications, stop, err := c.Subscribe(topic)
		if err != nil {
			return err
		}
		goon, err := c.follow(publications, filter, &run, &cursor, each)
		stop()
		if err != nil || !goon {
			return err
		}
	}
}

func (c *Client) follow(
	publications <-chan Publication, filter map[string]any, run, cursor *uint64, each Each,
) (bool, error) {
	for {
		var message Publication
		select {
		case next, open := <-publications:
			if !open {
				return true, nil
			}
			message = next
		case <-time.After(3 * patience): // three beats
			return true, nil
		}
		switch message.Type {
		case DATA, HELLO, BEAT, BYE:
		case ERR:
			return false, fmt.Errorf("the topic was refused: %q", message.Body)
		default:
			continue
		}
		missing := message.Run != *run || *cursor < message.Prev // another life, or a hole
		for missing {
			page, err := c.Ask("replay", map[string]any{"filter": filter, "after": *cursor, "run": *run})
			if err != nil {
				return false, err
			}
			for _, event := range page.Events {
				if !each(page.Run, event) {
					return false, nil
				}
			}
			*run, *cursor = page.Run, page.Upto
			missing = page.Upto != page.Head
		}
		if message.Run != *run || message.ID <= *cursor {
			continue
		}
		var events []Event
		if message.Type == DATA {
			if err := msgpack.Unmarshal(message.Body, &events); err != nil {
				return false, err
			}
		}
		for _, event := range events {
			if event.ID > *cursor && !each(*run, event) {
				return false, nil
			}
		}
		*cursor = message.ID
	}
}

func run() error {
	url := os.Getenv("ZSTREAM_URL")
	if url == "" {
		url = "tcp://127.0.0.1:5570"
	}
	client, err := NewClient(url)
	if err != nil {
		return err
	}
	pong, err := client.Ask("ping", nil)
	if err != nil {
		return err
	}
	fmt.Println("protocol", pong.Protocol)

	// One request, answered when it is on disk.
	newYear := 1_420_070_400_000_000 // 2015, in microseconds
	stored, err := client.Ask("insert", map[string]any{"events": []any{
		map[string]any{"kind": "friend", "user": 23, "friend": 291},
		[]any{newYear, map[string]any{"kind": "friend", "user": 291, "friend": 23}},
	}})
	if err != nil {
		return err
	}
	fmt.Println("ids", stored.IDs)

	// Fire and forget, then two numbered batches over the same connection.
	push := zmq4.NewPush(context.Background())
	defer push.Close()
	if err := push.Dial(client.insert); err != nil {
		return err
	}
	watch, err := msgpack.Marshal(map[string]any{"kind": "watch", "user": 23, "repo": 7})
	if err != nil {
		return err
	}
	if err := push.Send(zmq4.NewMsg(watch)); err != nil {
		return err
	}
	producer := &Producer{client: client}
	if _, err := rand.Read(producer.id[:]); err != nil {
		return err
	}
	for _, events := range [][]any{
		{map[string]any{"kind": "friend", "user": 1}, map[string]any{"kind": "friend", "user": 2}},
		{map[string]any{"kind": "friend", "user": 3}, "no event"},
	} {
		if err := producer.Send(push, events); err != nil {
			return err
		}
	}
	mark, err := producer.Flush()
	if err != nil {
		return err
	}
	fmt.Println("last", mark.Last, "refused", mark.Refused)

	friends := map[string]any{"kind": "friend", "user": []int{23, 291, 3}}
	err = client.Walk(friends, 2, func(event Event) { fmt.Println(event.ID, event.Fields) })
	if err != nil {
		return err
	}

	// What was stored after the page comes first, then what is published.
	watches := map[string]any{"kind": "watch"}
	page, err := client.Ask("items", map[string]any{"filter": watches, "limit": 1})
	if err != nil {
		return err
	}
	insert := func(user int) error {
		event := map[string]any{"kind": "watch", "user": user, "repo": 8}
		_, err := client.Ask("insert", map[string]any{"events": []any{event}})
		return err
	}
	if err := insert(1); err != nil {
		return err
	}
	seen := 0
	return client.Follow(`{"kind":"watch"}`, watches, page.Run, page.Head, func(_ uint64, event Event) bool {
		fmt.Println("followed", event.Fields)
		seen++
		if seen == 1 {
			err = insert(2)
		}
		return err == nil && seen < 2
	})
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}
