// Verifies a cosignature of type 0x04 with Go's standard library alone (C2SP signed-note, tlog-cosignature).
//
// Reads a verifier key, a newline, and a note; writes the time that the key's signature states, or "bad".
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		panic(err)
	}
	vkey, note, _ := strings.Cut(string(input), "\n")
	time, ok := verify(vkey, note)
	if !ok {
		fmt.Println("bad")
		return
	}
	fmt.Println(time)
}

func verify(vkey, note string) (uint64, bool) {
	parts := strings.SplitN(vkey, "+", 3)
	key, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || key[0] != 4 || len(key) != 33 {
		return 0, false
	}
	id := sha256.Sum256(append([]byte(parts[0]+"\n"), key...))
	if hex.EncodeToString(id[:4]) != parts[1] {
		return 0, false
	}
	end := strings.LastIndex(note, "\n\n")
	text := note[:end+1]
	for _, line := range strings.Split(note[end+2:], "\n") {
		fields := strings.Split(line, " ")
		if len(fields) != 3 || fields[0] != "—" || fields[1] != parts[0] {
			continue
		}
		signature, err := base64.StdEncoding.DecodeString(fields[2])
		if err != nil || !bytes.Equal(signature[:4], id[:4]) {
			continue
		}
		time := binary.BigEndian.Uint64(signature[4:12])
		message := fmt.Sprintf("cosignature/v1\ntime %d\n%s", time, text)
		return time, ed25519.Verify(key[1:], []byte(message), signature[12:])
	}
	return 0, false
}
