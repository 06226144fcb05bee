// Reduit's log formats as Go's own packages see them: golang.org/x/mod/sumdb/note and tlog.
//
// Reads one JSON request on standard input and writes one JSON answer. It has no opinion: the test beside it compares.
// It builds without modules and network, from Debian's golang-golang-x-mod-dev in GOPATH.
package main

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io/ioutil"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type request struct {
	Notes    []signedNote
	Sign     []toSign
	Generate []toGenerate
	Trees    []tree
	NewTiles [][2]int64
}

type signedNote struct {
	Vkeys []string
	Note  string
}

type toSign struct {
	Skey string
	Text string
}

type toGenerate struct {
	Name string
	Text string
}

// tree is the text of a checkpoint, a folder of its tiles, and what to check and to prove with them.
type tree struct {
	Checkpoint  string
	Folder      string
	Inclusion   []inclusion
	Consistency []consistency
}

type inclusion struct {
	Index int64
	Entry string
	Proof []tlog.Hash
}

type consistency struct {
	Old     int64
	OldRoot tlog.Hash
	Proof   []tlog.Hash
}

type answer struct {
	Notes     []opened
	Signed    []string
	Generated []generated
	Trees     []treeAnswer
	NewTiles  [][]string
}

type opened struct {
	Error      string
	Text       string
	Verified   int
	Unverified int
}

type generated struct {
	Vkey string
	Skey string
	Note string
}

type treeAnswer struct {
	Error string
	Size  int64
	Root  tlog.Hash
	// Of each inclusion and consistency asked about: what Go says of our proof, and the proof Go makes from our tiles.
	Inclusion   []judged
	Consistency []judged
}

type judged struct {
	Error string
	Proof []tlog.Hash
}

func main() {
	var in request
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var out answer
	for _, n := range in.Notes {
		out.Notes = append(out.Notes, open(n))
	}
	for _, s := range in.Sign {
		out.Signed = append(out.Signed, sign(s.Skey, s.Text))
	}
	for _, g := range in.Generate {
		skey, vkey, err := note.GenerateKey(rand.Reader, g.Name)
		must(err)
		out.Generated = append(out.Generated, generated{vkey, skey, sign(skey, g.Text)})
	}
	for _, t := range in.Trees {
		out.Trees = append(out.Trees, read(t))
	}
	for _, sizes := range in.NewTiles {
		out.NewTiles = append(out.NewTiles, widest(tlog.NewTiles(8, sizes[0], sizes[1])))
	}
	must(json.NewEncoder(os.Stdout).Encode(out))
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func open(n signedNote) opened {
	var known []note.Verifier
	for _, vkey := range n.Vkeys {
		v, err := note.NewVerifier(vkey)
		must(err)
		known = append(known, v)
	}
	read, err := note.Open([]byte(n.Note), note.VerifierList(known...))
	if err != nil {
		return opened{Error: err.Error()}
	}
	return opened{Text: read.Text, Verified: len(read.Sigs), Unverified: len(read.UnverifiedSigs)}
}

func sign(skey, text string) string {
	signer, err := note.NewSigner(skey)
	must(err)
	signed, err := note.Sign(&note.Note{Text: text}, signer)
	must(err)
	return string(signed)
}

// folder reads tiles under the paths of C2SP tlog-tiles, which leave out Go's height.
type folder string

func (f folder) Height() int { return 8 }

func (f folder) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var out [][]byte
	for _, tile := range tiles {
		path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		data, err := ioutil.ReadFile(filepath.Join(string(f), path))
		if err != nil {
			return nil, err
		}
		out = append(out, data)
	}
	return out, nil
}

func (f folder) SaveTiles([]tlog.Tile, [][]byte) {}

func read(t tree) treeAnswer {
	head, err := tlog.ParseTree([]byte(t.Checkpoint))
	if err != nil {
		return treeAnswer{Error: err.Error()}
	}
	tiles := tlog.TileHashReader(head, folder(t.Folder))
	root, err := tlog.TreeHash(head.N, tiles)
	out := treeAnswer{Error: text(err), Size: head.N, Root: root}
	for _, i := range t.Inclusion {
		err := tlog.CheckRecord(i.Proof, head.N, head.Hash, i.Index, tlog.RecordHash([]byte(i.Entry)))
		own, perr := tlog.ProveRecord(head.N, i.Index, tiles)
		if perr != nil {
			err = perr
		}
		out.Inclusion = append(out.Inclusion, judged{text(err), own})
	}
	for _, c := range t.Consistency {
		err := tlog.CheckTree(c.Proof, head.N, head.Hash, c.Old, c.OldRoot)
		own, perr := tlog.ProveTree(head.N, c.Old, tiles)
		if perr != nil {
			err = perr
		}
		out.Consistency = append(out.Consistency, judged{text(err), own})
	}
	return out
}

// widest leaves of each tile the widest one: Debian's version lists the partial tiles of all sizes on the way.
func widest(tiles []tlog.Tile) []string {
	at := map[[2]int64]int{}
	var kept []tlog.Tile
	for _, tile := range tiles {
		key := [2]int64{int64(tile.L), tile.N}
		if i, ok := at[key]; ok {
			kept[i] = tile
			continue
		}
		at[key] = len(kept)
		kept = append(kept, tile)
	}
	paths := []string{}
	for _, tile := range kept {
		paths = append(paths, strings.Replace(tile.Path(), "tile/8/", "tile/", 1))
	}
	return paths
}
