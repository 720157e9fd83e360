package main

import (
	"encoding/hex"
	"encoding/json"
	"math"
	"math/big"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/vmihailenco/msgpack/v5"
)

type vectors struct {
	Batches []struct {
		Name, Header, Body, Producer string
		Epoch, Count                 uint32
		N                            uint64
	} `json:"batches"`
	Publications []struct {
		Header, Body      string
		Type              string
		Node              uint16
		Run, Prev, ID, TS uint64
	} `json:"publications"`
	BadPublicationHeaders []struct{ Header string } `json:"bad_publication_headers"`
	IndexValues           []struct {
		Name, Value string
		Texts       []string
	} `json:"index_values"`
}

func load(t *testing.T) (all vectors) {
	data, err := os.ReadFile("../../../docs/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func unhex(t *testing.T, text string) []byte {
	data, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestBatchHeaders(t *testing.T) {
	for _, each := range load(t).Batches {
		producer := [16]byte(unhex(t, each.Producer))
		header := BatchHeader(producer, each.Epoch, each.N, each.Count, unhex(t, each.Body))
		if hex.EncodeToString(header) != each.Header {
			t.Errorf("%s: %x, not %s", each.Name, header, each.Header)
		}
	}
}

func TestPublicationHeaders(t *testing.T) {
	names := []string{"", "DATA", "HELLO", "BEAT", "ACK", "NACK", "ERR", "TOMBSTONE", "BYE"}
	all := load(t)
	for _, each := range all.Publications {
		header, err := ReadHeader(unhex(t, each.Header))
		want := Header{header.Type, each.Node, each.Run, each.Prev, each.ID, each.TS}
		if err != nil || header != want || names[header.Type] != each.Type {
			t.Errorf("%s: %v, not %v (%v)", each.Type, header, want, err)
		}
		if each.Type == "DATA" {
			var events []Event
			if err := msgpack.Unmarshal(unhex(t, each.Body), &events); err != nil || len(events) != 2 {
				t.Errorf("%v: %v", events, err)
			}
		}
	}
	for _, each := range all.BadPublicationHeaders {
		if _, err := ReadHeader(unhex(t, each.Header)); err == nil {
			t.Errorf("%s was read", each.Header)
		}
	}
}

// indexTexts follows the rules of docs/protocol.md for the index values of a field.
func indexTexts(value any) (texts []string) {
	items, isArray := value.([]any)
	if !isArray {
		items = []any{value}
	}
	seen := map[string]bool{}
	for _, item := range items {
		text, ok := indexText(item)
		if ok && !seen[text] && len(seen) < 64 {
			seen[text] = true
			texts = append(texts, text)
		}
	}
	return texts
}

func indexText(value any) (text string, ok bool) {
	if _, isBytes := value.([]byte); isBytes || value == nil {
		return "", false
	}
	switch value := reflect.ValueOf(value); {
	case value.Kind() == reflect.String:
		text = value.String()
	case value.Kind() == reflect.Bool:
		text = strconv.FormatBool(value.Bool())
	case value.CanInt():
		text = strconv.FormatInt(value.Int(), 10)
	case value.CanUint():
		text = strconv.FormatUint(value.Uint(), 10)
	case value.CanFloat():
		text = floatText(value.Float())
	default:
		return "", false
	}
	return text, len(text) <= 255 && !strings.Contains(text, "\x00")
}

func floatText(value float64) string {
	switch {
	case value == math.Trunc(value):
		exact, _ := big.NewFloat(value).Int(nil)
		return exact.String()
	case math.Abs(value) >= 0.0001:
		return strconv.FormatFloat(value, 'f', -1, 64)
	default:
		return strconv.FormatFloat(value, 'e', -1, 64)
	}
}

func TestIndexValues(t *testing.T) {
	for _, each := range load(t).IndexValues {
		var value any
		if err := msgpack.Unmarshal(unhex(t, each.Value), &value); err != nil {
			t.Fatal(each.Name, err)
		}
		texts := indexTexts(value)
		if len(texts) != len(each.Texts) {
			t.Errorf("%s: %q, not %q", each.Name, texts, each.Texts)
			continue
		}
		for i, text := range texts {
			if text != each.Texts[i] {
				t.Errorf("%s: %q, not %q", each.Name, text, each.Texts[i])
			}
		}
	}
}
