// Checkpoints and proofs of an evidence folder as Go's own packages see them: golang.org/x/mod/sumdb/note and tlog.
//
// Takes the folder and the log's verifier key. Says what it checked, or why it does not hold and fails. Cosignatures it
// does not know. It builds without modules and network, from Debian's golang-golang-x-mod-dev in GOPATH.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/ioutil"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type checkpoint struct {
	Note        string
	Consistency []tlog.Hash
}

type leaf struct {
	Index int64
	Leaf  string
	Proof []tlog.Hash
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func lines(name string) [][]byte {
	data, err := ioutil.ReadFile(filepath.Join(os.Args[1], name))
	must(err)
	return bytes.Split(bytes.TrimSuffix(data, []byte("\n")), []byte("\n"))
}

// treeOf reads the first three lines of a checkpoint; Go's own ParseTree has a fixed first line.
func treeOf(text string) tlog.Tree {
	at := bytes.IndexByte([]byte(text), '\n')
	tree, err := tlog.ParseTree([]byte("go.sum database tree" + text[at:]))
	must(err)
	return tree
}

func main() {
	verifier, err := note.NewVerifier(os.Args[2])
	must(err)
	var tree tlog.Tree
	checkpoints, leaves := 0, 0
	for _, line := range lines("checkpoints.jsonl") {
		var c checkpoint
		must(json.Unmarshal(line, &c))
		opened, err := note.Open([]byte(c.Note), note.VerifierList(verifier))
		must(err)
		next := treeOf(opened.Text)
		if checkpoints > 0 {
			must(tlog.CheckTree(c.Consistency, next.N, next.Hash, tree.N, tree.Hash))
		}
		tree = next
		checkpoints++
	}
	for _, line := range lines("leaves.jsonl") {
		var l leaf
		must(json.Unmarshal(line, &l))
		must(tlog.CheckRecord(l.Proof, tree.N, tree.Hash, l.Index, tlog.RecordHash([]byte(l.Leaf))))
		leaves++
	}
	fmt.Printf("%d checkpoints, %d leaves\n", checkpoints, leaves)
}
